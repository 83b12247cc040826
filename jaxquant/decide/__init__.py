"""From a model to a decision: which quantized file is good enough, on the user's own workload."""

import inspect
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any


def decide(
    model: Any,
    examples: Iterable[Any],
    score: Callable[[Any, Any], Any] | None = None,
    *,
    bar: str = "lose<=2",
    schemes: Iterable[str] | None = None,
    qat: bool | str = False,
    out: Path | str | None = None,
    name: str = "model",
) -> dict[str, Any]:
    """Decides on a Flax model from Python, as `jaxquant decide` does.

    Args:
      model: an nnx.Module, or (linen.Module, variables).
      examples: what the model takes, one element an example, without a batch axis: they are stacked (a tuple: several
        arguments); with a score, (inputs, ...).
      score: float from (output, example), higher is better; None: agreement with the float model.
      bar: "lose<=POINTS", "score>=S" or "same>=P%".
      schemes: rungs instead of the default ladder (a single one may be a str); with " + QAT" behind one the model is
        trained under it.
      qat: also a rung that is trained without labels: a scheme, or True for int4:channel.  Every third example then
        trains and is not judged.
      out: folder for report, JSON and model; default: the next free jaxquant-decide.
      name: what the report calls the model.
    Returns:
      the result as in result.json; result["decision"]["exit_code"] is 0 pass, 1 fail, 3 unsure; result["folder"] has
      the files, for `winner`.
    Raises:
      ValueError: a bar or scheme without meaning, no examples, an output that exists, a model that cannot be trained.
      OSError: the output cannot be written (before anything is computed).
      TypeError: the model is none of the two kinds, the score no function.
    """
    from jaxquant.decide.bars import parse_bar, refuse_unreachable
    from jaxquant.decide.command import tell
    from jaxquant.decide.console import Printer
    from jaxquant.decide.ladder import rungs
    from jaxquant.decide.opening import target_of
    from jaxquant.decide.outputs import output_folder
    from jaxquant.decide.workloads.examples import open_examples

    parsed, chosen, folder = (
        parse_bar(bar),
        rungs(schemes if isinstance(schemes, str) else tuple(schemes or ()), qat),
        output_folder(Path(out) if out else None),
    )
    if score is None:
        refuse_unreachable(parsed)
    target, workload = target_of(model, name), open_examples(examples, score)
    return tell(target, workload, parsed, chosen, folder, Printer())[1]


def winner(model: Any, folder: Path | str) -> Callable[..., Any]:
    """The model with the weights that a decision recommended, as a function of its inputs: see `jaxquant.decide.saved`.

    Args:
      model: as it was given to `decide`.
      folder: where that wrote its files: result["folder"].
    Returns:
      a compiled function of the model's inputs, with the bits of the recommended row.
    Raises:
      ValueError: nothing was recommended, or the file is another model's.
    """
    from jaxquant.decide import saved

    return saved.winner(model, folder)


class _Decide(ModuleType):
    """The package is what `jaxquant.decide(model, examples)` calls, whichever of its modules was imported first."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return decide(*args, **kwargs)


__signature__ = inspect.signature(decide)  # of that call, for help and editors
sys.modules[__name__].__class__ = _Decide
