"""The mark beside a kernel: a leaf without content whose name tells by which recipe the layer's other leaves were made.

Scales of int4 and of int2 have one name and one shape, and a checkpoint keeps names, shapes and values alone.  A name
is known where values are traced, and every format keeps it.
"""

import json
import re
import zlib
from collections.abc import Iterable
from functools import lru_cache

import jax
import jax.numpy as jnp

from jaxquant.flax.names import named
from jaxquant.flax.recipe_json import written
from jaxquant.flax.site import LayerSpec, spec_text
from jaxquant.qtensor import QTensor
from refquant.spec import QuantSpec

_MARK = re.compile(r"recipe_[0-9a-f]{8}")


@lru_cache(maxsize=4096)
def mark_of(site: LayerSpec) -> str:
    """The name of the mark of a layer: a checksum (CRC-32) of what gives its leaves their meaning.

    How they are trained and calibrated (options of an estimator, the schedule) may change from one run to the next.
    """
    specs = [spec and written(spec) for spec in (site.weights, site.inputs)]
    estimators = [type(estimator).__name__ for estimator in (site.weight_estimator, site.input_estimator)]
    text = json.dumps([*specs, *estimators, site.static, site.folded], sort_keys=True)
    return f"recipe_{zlib.crc32(text.encode()):08x}"


def mark_value(kernel: jax.Array) -> jax.Array:
    """The value of a mark: one zero of the kernel's rank, stacked and split along any axis as the kernel is."""
    return jnp.zeros((1,) * len(kernel.shape), jnp.float32)


def is_mark(name: object) -> bool:
    """Whether a leaf of that name is a mark."""
    return isinstance(name, str) and _MARK.fullmatch(name) is not None


def wrong_leaf(path: str, kernel: str, name: str, need: Iterable[str]) -> str:
    """What is said of a leaf that is missing beside a kernel or should not be there.

    Args:
      path: of the layer.
      kernel: the name of its kernel.
      name: of the leaf.
      need: every name that the call needs.
    """
    need = sorted(need)
    what = f"no {name!r}" if name in need else repr(name)
    return (
        f"{named(path)}: there is {what} beside the {kernel}, need {need or 'nothing'} (not prepared, a call "
        "that neither prepare's x and methods nor observe and calibrate have run, or a checkpoint of another recipe)"
    )


def wrong_codes(path: str, kernel: str, there: QuantSpec | None, need: QuantSpec | None) -> str:
    """What is said of codes of another spec, or where one of the two is floats.

    Args:
      path: of the layer.
      kernel: the name of its kernel.
      there: the spec of its codes; None: floats.
      need: likewise.
    """
    texts = [spec and spec_text(spec) for spec in (there, need)]
    if texts[0] == texts[1]:  # they differ in what reports leave out
        texts = [str(there), str(need)]
    has, needs = (f"codes of {text}" if text else "floats" for text in texts)
    return f"{named(path)}: the {kernel} has {has}, need {needs} (a checkpoint of another recipe)"


def check_left(path: str, kernel: str, value: object, names: Iterable[str]) -> None:
    """Refuse what another recipe left beside or in place of the kernel of a layer that this one leaves in float.

    Args:
      path: of the layer.
      kernel: the name of its kernel.
      value: the kernel.
      names: of everything beside it.
    Raises:
      ValueError: there is a mark, or codes.
    """
    codes, marks = isinstance(value, QTensor), list(filter(is_mark, names))
    if codes or marks:
        what = "are codes in place of" if codes else f"is {marks[0]!r} beside"
        raise ValueError(
            f"{named(path)}: there {what} the {kernel}, need a rule with weights for it (the recipe leaves it in "
            "float: a checkpoint of another recipe)"
        )


def check_mark(path: str, kernel: str, site: LayerSpec, names: Iterable[str], *, needed: bool) -> None:
    """Refuse leaves that were made by another recipe.

    Args:
      path: of the layer.
      kernel: the name of its kernel.
      site: what it does.
      names: of everything beside the kernel.
      needed: whether anything there depends on the recipe; where nothing does no mark is needed.
    Raises:
      ValueError: there is the mark of another recipe, or none where one is needed.
    """
    own, there = mark_of(site), sorted(filter(is_mark, names))
    foreign = [name for name in there if name != own]
    if foreign or (needed and not there):
        what = repr(foreign[0]) if foreign else "no mark of a recipe"
        raise ValueError(
            f"{named(path)}: there is {what} beside the {kernel}, need {own!r}, the mark of {site} (a checkpoint of "
            "another recipe, by which its leaves mean something else: its float leaves alone can be prepared anew)"
        )
