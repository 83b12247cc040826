"""The file that `decide` saved, back in the model that it was decided on."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from jaxquant import store
from jaxquant.decide.ladder import QAT
from jaxquant.decide.layouts import planned
from jaxquant.decide.on_codes import on_codes
from jaxquant.decide.opening import target_of
from jaxquant.decide.targets import Target
from jaxquant.qtensor import QTensor, dequantize_tensor
from refquant.schemes import parse


def winner(model: Any, folder: str | Path) -> Callable[..., Any]:
    """The model with the weights that `decide` recommended, with the bits of its row.

    Args:
      model: as it was given to `decide`: an nnx.Module, (linen.Module, variables), or a folder of type bert.  It stays
        as it is; its weights do not count, all else does.
      folder: where `decide` wrote result.json and model.safetensors.
    Returns:
      A compiled function of the model's inputs: dequantized weights, or integer layers where the scheme names inputs.
    Raises:
      ValueError: nothing was recommended, or the file is another model's.
      FileNotFoundError: a file is absent.

    Spec: DEC-13, DEC-18 (specs/70-decide.md).  Class: exact where the row is.
    """
    folder = Path(folder)
    label = json.loads((folder / "result.json").read_text(encoding="utf-8"))["decision"]["winner"]
    if label is None:
        raise ValueError(f"winner: {folder} recommends float, need a decision for a quantized file (there is none)")
    tensors = store.load(folder / "model.safetensors")
    target = _target(model)
    _check(target, tensors)
    quantized = {name: value for name, value in tensors.items() if isinstance(value, QTensor)}
    target = target.replaced({name: value for name, value in tensors.items() if name in target.names - set(quantized)})
    scheme = parse(label.removesuffix(QAT))
    if scheme.inputs is None:
        return target.forward({name: dequantize_tensor(q) for name, q in quantized.items()})
    made: list[Callable[..., Any]] = []

    def run(*args: Any) -> Any:
        if not made:  # which layers there are is known from a call
            layouts = target.layouts(lambda: args)
            on = on_codes(planned(target.infos, scheme, layouts), layouts, target.names, scheme.inputs)
            made.append(target.forward_quantized(quantized, on))
        return made[0](*args)

    return run


def _target(model: Any) -> Target:
    if isinstance(model, str | Path):
        from jaxquant.decide.targets.nnx_target import open_bert

        return open_bert(Path(model))
    return target_of(model, "model")


def _check(target: Target, tensors: dict[str, Any]) -> None:
    """Refuse what is not this model's: other names or shapes, or other values of what is no parameter.

    Raises:
      ValueError: the first difference.
    """
    for info in target.infos:
        found = tensors.get(info.name)
        if found is None or tuple(found.shape) != tuple(info.shape):
            there = "nothing" if found is None else f"shape {tuple(found.shape)}"
            raise ValueError(
                f"winner: the file has {there} for {info.name!r}, need shape {info.shape} (is it another model's?)"
            )
        if info.name in target.names or isinstance(found, QTensor):  # a kernel that no run reads may have codes too
            continue
        if not np.array_equal(target.tensor(info.name), found, equal_nan=True):
            raise ValueError(
                f"winner: {info.name!r} of the model differs from the file's, need the model that was decided on (no "
                "parameter, so the model's own is used)"
            )
