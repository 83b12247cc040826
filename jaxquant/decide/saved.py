"""The file that `decide` saved, back in the model that it was decided on."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jaxquant import store
from jaxquant.decide.ladder import QAT
from jaxquant.decide.layouts import planned
from jaxquant.decide.on_codes import on_codes
from jaxquant.decide.opening import target_of
from jaxquant.decide.targets import Target
from jaxquant.qtensor import QTensor, dequantize_tensor
from refquant.schemes import Scheme, parse


def winner(model: Any, folder: str | Path) -> Callable[..., Any]:
    """The model with the weights that `decide` recommended, with the bits of its row.

    Args:
      model: as it was given to `decide`: an nnx.Module, (linen.Module, variables), or a folder of type bert.  It stays
        as it is; its weights and statistics do not count.
      folder: where `decide` wrote result.json and model.safetensors.
    Returns:
      A compiled function of the model's inputs: dequantized weights, or integer layers where the scheme names inputs.
      Under a=...:tensor a batch has one range, so an example's bits depend on the others in it (DEC-18).
    Raises:
      ValueError: nothing was recommended, or the file is another model's.
      FileNotFoundError: a file is absent.

    Spec: DEC-13, DEC-18 (specs/70-decide.md).  Class: exact where the row is.
    """
    folder = Path(folder)
    label = json.loads((folder / "result.json").read_text(encoding="utf-8"))["decision"]["winner"]
    if label is None:
        raise ValueError(f"winner: {folder} recommends float, need a decision for a quantized file (there is none)")
    return in_model(_target(model), store.load(folder / "model.safetensors"), _scheme(label), "winner: the file")


def scheme_of(path: Path) -> Scheme:
    """The scheme that a saved file's row had, by decide's result beside it; an empty one where there is none."""
    folder = path if path.is_dir() else path.parent
    try:
        found = json.loads((folder / "result.json").read_text(encoding="utf-8"))
        name, label = found["saved"]["path"], found["decision"]["winner"]
    except (OSError, ValueError, KeyError, TypeError):  # none, or another program's
        return Scheme()
    return _scheme(label) if path.is_dir() or path.name == name else Scheme()


def _scheme(label: str) -> Scheme:
    return parse(label.removesuffix(QAT))


def in_model(target: Target, tensors: Mapping[str, Any], scheme: Scheme, file: str) -> Callable[..., Any]:
    """The model with the weights of a file.

    Args:
      target: the model; its own weights do not count.
      tensors: as `store.load` gives them.
      scheme: of the row that the file was saved for; only whether it names inputs counts.
      file: how an error begins that tells of the file: "winner: the file".
    Returns:
      A compiled function of the model's inputs: dequantized weights, or integer layers where the scheme names inputs.
    Raises:
      ValueError: the file is another model's.
    """
    _check(target, tensors, file)
    quantized = {name: value for name, value in tensors.items() if isinstance(value, QTensor)}
    target = target.replaced({name: value for name, value in tensors.items() if name not in quantized})
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


def _check(target: Target, tensors: Mapping[str, Any], file: str) -> None:
    """Refuse what is not this model's: other names or shapes.

    Raises:
      ValueError: the first difference.
    """
    for info in target.infos:
        found = tensors.get(info.name)
        if found is None or tuple(found.shape) != tuple(info.shape):
            there = "nothing" if found is None else f"shape {tuple(found.shape)}"
            raise ValueError(
                f"{file} has {there} for {info.name!r}, need shape {info.shape} (is it another model's? or were its "
                "batch norms folded?)"
            )
