"""QTensors in flax.serialization: `to_bytes` and `from_bytes` of trees that hold them, with the same bits.

The spec stands beside the arrays as the text that a recipe has for it, so that codes never come back as another's.
"""

import json
from collections.abc import Mapping
from typing import Any

from flax import serialization
from flax.core import meta

from jaxquant.flax.recipe_json import written
from jaxquant.qtensor import QTensor

ARRAYS = ("codes", "scale", "zero_point")


def register() -> None:
    """Tell flax.serialization of QTensors; once more does no harm."""
    serialization.register_serialization_state(QTensor, _stated, _restored, override=True)


def _stated(q: QTensor) -> dict[str, Any]:
    arrays = {name: serialization.to_state_dict(getattr(q, name)) for name in ARRAYS}
    return {**arrays, "spec": _text(q)}


def _restored(target: QTensor, state: Any) -> QTensor:
    """The QTensor of a state dict, refused where it is not as the target is.

    Raises:
      ValueError: no codes, or of another spec, shape or dtype.
    """
    path, own = serialization.current_path(), _text(target)
    if not isinstance(state, Mapping) or {*state} != {*ARRAYS, "spec"}:
        there = sorted(map(str, state)) if isinstance(state, Mapping) else f"a {type(state).__name__}"
        raise ValueError(f"from_state_dict: {path!r} has {there}, need {[*ARRAYS, 'spec']} (of a converted model)")
    if state["spec"] != own:
        raise ValueError(
            f"from_state_dict: {path!r} has codes of {state['spec']}, need {own} (a checkpoint of another recipe)"
        )
    found = {n: serialization.from_state_dict(getattr(target, n), state[n], name=n) for n in ARRAYS}
    for name, value in found.items():
        there, need = _kind(value), _kind(getattr(target, name))
        if there != need:
            raise ValueError(f"from_state_dict: {path!r} has {name} {there}, need {need} (of another model)")
    return QTensor(**found, spec=target.spec)


def _text(q: QTensor) -> str:
    return json.dumps(written(q.spec), sort_keys=True)


def _kind(value: Any) -> str:
    """The dtype and the shape of an array, boxed or not, or of a shape alone."""
    array = meta.unbox(value)
    return "nothing" if array is None else f"{array.dtype}{list(array.shape)}"
