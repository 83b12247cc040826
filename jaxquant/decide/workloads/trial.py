"""The user's examples tried on the model before anything is printed: every shape traced, one example run and scored."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxquant.decide.users import told
from jaxquant.decide.workloads import ApplyFn, is_broken

if TYPE_CHECKING:
    from jaxquant.decide.workloads.examples import Examples

ARRAYS = "an array, or a tuple of arrays for several arguments"
AXIS = "need what the model takes, without a batch axis (examples are stacked along a new first one)"
LABELS = "examples (inputs, label) need a score function, --score module:function (without one each value is an input)"


def check_inputs(number: int, example: Any, inputs: tuple[Any, ...]) -> None:
    """An example's inputs are arrays of numbers.

    Args:
      number: the user's, from 0.
      example: as the user gave it.
      inputs: what of it goes to the model.
    Raises:
      ValueError: one of them is none.
    """
    if not inputs or not all(_numeric(value) for value in inputs):
        raise ValueError(
            f"decide: example {number} is {_kind(example)}, need {ARRAYS} (with a score function: (inputs, label))"
        )


def try_examples(work: "Examples", apply_fn: ApplyFn) -> None:
    """Traces the model for every shape of the examples, then runs and scores the first one.

    Raises:
      ValueError: the model or the score function raises, or what they give is no array of rows, or no number.
    """
    groups = work.stacked()
    for first, batch in groups:
        _trace(work, apply_fn, first, batch)
    first, batch = groups[0]
    output = np.asarray(apply_fn(*batch))[0]
    if not is_broken(output):
        work.judged(first, output)


def _trace(work: "Examples", apply_fn: ApplyFn, first: int, batch: tuple[Any, ...]) -> None:
    import jax

    try:
        found = jax.eval_shape(apply_fn, *batch)
    except Exception as error:
        labels = work.score is None and isinstance(work.examples[first], tuple) and len(batch) > 1
        raise told(f"the model, on {work.told(first)},", error, LABELS if labels else AXIS) from error
    rows = len(batch[0]) if np.ndim(batch[0]) else 0
    if not hasattr(found, "shape"):
        raise ValueError(f"decide: the model returns a {type(found).__name__}, need one array, a row for each example")
    if not found.shape or found.shape[0] != rows:
        shape = f"{found.dtype}{list(found.shape)}"
        raise ValueError(f"decide: the model returns {shape} for a batch of {rows}, need a row for each example")


def _numeric(value: Any) -> bool:
    try:
        dtype = np.asarray(value).dtype
    except Exception:  # ragged lists, random keys, arrays that are deleted
        return False
    return dtype.kind not in "OUSMm" and dtype.names is None


def _kind(value: Any) -> str:
    if isinstance(value, dict):
        return f"a dict with keys {', '.join(map(repr, value))}" if value else "an empty dict"
    if isinstance(value, tuple):
        return f"a tuple of {_listed(value)}" if value else "an empty tuple"
    return f"a {type(value).__name__}"


def _listed(values: Iterable[Any]) -> str:
    """`float32[12], a str`."""
    return ", ".join(f"{np.asarray(v).dtype}{list(np.shape(v))}" if _numeric(v) else _kind(v) for v in values)
