"""Two files compared: names, shapes, every bit of every value, and their answers where there is a workload."""

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxquant.decide.bits import differing
from jaxquant.distances import Distance, by_distance, json_row
from jaxquant.store_read import load, opened, rows_of
from refquant.files.printable import printable
from refquant.files.runs import runs
from refquant.schemes import Scheme


def compare(a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
    """Tensors by name, run by run of their rows.

    Args:
      a: name → array, QTensor or Rows, as `store_read.load` and `opened` give them.
      b: likewise.
    Returns:
      dict with only_a, only_b (names) and tensors: dicts with name, equal, why, differing, elements, and error, worst,
      not_finite as `distances.distance` has them (None where shapes differ); worst first, what is not finite before.
    """
    rows = [_one(name, a[name], b[name]) for name in a if name in b]
    rows.sort(key=_rank)
    return {"only_a": sorted(set(a) - set(b)), "only_b": sorted(set(b) - set(a)), "tensors": rows}


def _rank(row: dict[str, Any]) -> tuple[Any, ...]:
    return (False, False) if row["why"] else (row["equal"], True, *by_distance(row))


def _one(name: str, a: Any, b: Any) -> dict[str, Any]:
    a, b = rows_of(a), rows_of(b)
    row: dict[str, Any] = {"name": name, "elements": math.prod(a.shape), "kind_a": a.kind, "kind_b": b.kind}
    if a.shape != b.shape:
        why = f"shape {a.shape} against {b.shape}"
        return row | {"equal": False, "why": why} | dict.fromkeys(("differing", "error", "worst", "not_finite"))
    far, count = Distance(), 0
    for start, stop in runs(a.shape, math.lcm(a.unit, b.unit)):
        x, y = a.read(start, stop), b.read(start, stop)
        wide = [v.astype(np.float64) for v in (x, y)]
        far.add(*wide)
        count += differing(x, y) if x.dtype == y.dtype else int(np.count_nonzero(_unequal(*wide)))
    return row | {"equal": count == 0, "why": "", "differing": count} | far.found()


def _unequal(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (x != y) & ~(np.isnan(x) & np.isnan(y))


@dataclass(frozen=True)
class Side:
    """One of the two that are compared: its name, its tensors, and what they are quantized as."""

    name: str
    tensors: dict[str, Any]
    scheme: Scheme = Scheme()


def compare_answers(target: Any, work: Any, a: Side, b: Side, *, top: int = 12) -> dict[str, Any]:
    """How a model's answers differ between two sets of weights.

    Args:
      target: the model; its own weights do not count.
      work: the examples.  Without right answers b is scored by its agreement with a.
      a: the first.
      b: the second.
      top: how many changed answers are kept, worst first.
    Returns:
      dict with workload, metric, n, changed, same, score_a, score_b, own_a, own_b, change (intervals), worst, order.
    Raises:
      ValueError: weights that are not this model's, examples or a score function that do not fit.

    Spec: CMD-8 (specs/80-commands.md).
    """
    from jaxquant.decide.changes import change, worst_first
    from jaxquant.decide.intervals import share_interval
    from jaxquant.decide.means import change_interval, score_interval
    from jaxquant.decide.saved import in_model
    from jaxquant.decide.workloads import AGREEMENT

    if hasattr(work, "check"):
        work.check(target.forward({}))
    runs = [in_model(target, side.tensors, side.scheme, f"diff: {side.name}") for side in (a, b)]
    first, second = (work.evaluate(run) for run in runs)
    same = first.same_as(second)
    order = worst_first(first, second)
    own = [None if work.metric == AGREEMENT else score_interval(one.score).as_dict() for one in (first, second)]
    return {
        "workload": work.describe().splitlines()[0],
        "metric": work.metric.replace("float", a.name) if work.metric == AGREEMENT else work.metric,
        "n": len(same),
        "changed": len(order),
        "same": share_interval(int(np.count_nonzero(same)), len(same)).as_dict(),
        "score_a": float(np.mean(first.score)),
        "score_b": float(np.mean(second.score)),
        "own_a": own[0],
        "own_b": own[1],
        "change": change_interval(first.score, second.score).as_dict(),
        "order": f"the lead of {first.led.replace('the float model', a.name)}" if first.led else "the score",
        "worst": [change(work, first, second, i) for _, _, i in order[:top]],
    }


def diff_command(
    a: str,
    b: Path,
    *,
    answers: str | None = None,
    on: str | None = None,
    score: str | None = None,
    top: int = 12,
    as_json: bool = False,
) -> int:
    """Runs the verb: 0 where every value is equal, 1 where something differs.

    Args:
      a: a file or folder, or module:function giving a Flax model.
      b: a file or folder.
      answers: the model that both are run in; None: `a`, if that is a model.
      on: module:function giving examples; None: none, or those known for a bert folder.
      score: module:function taking (output, example).
      top: how many tensors and answers are shown.
      as_json: one JSON document instead of text.

    Raises:
      ValueError: a bad file, a text that names nothing, weights of another model.
    """
    with _named_diff():
        target, work = _opened(a, answers, on, score)
    read = opened if work is None else load  # in a model all weights are in memory at once
    first, second = _side(a, target, None if answers else target, read), _side(str(b), target, None, read)
    found = compare(*_by_common_names(first.tensors, second.tensors))
    if work is not None:
        with _named_diff():
            found["answers"] = compare_answers(target, work, first, second, top=top)
    equal = not found["only_a"] and not found["only_b"] and all(row["equal"] for row in found["tensors"])
    if as_json:
        found["tensors"] = [json_row(row) for row in found["tensors"]]
        print(json.dumps(found | {"equal": equal}, indent=1))
    else:
        _print(a, b, found, equal, top)
    return 0 if equal else 1


def _opened(a: str, answers: str | None, on: str | None, score: str | None) -> tuple[Any, Any]:
    """The model and the examples; None for what was not asked."""
    from jaxquant.decide.opening import called, open_target, target_of

    own = not Path(a).exists() and ":" in a
    if own and answers:
        raise ValueError(f"diff: {a} is a model and --answers names another, need one (both are run in the same)")
    if own and on is None:
        if score:
            raise ValueError("diff: --score is given without --on, need module:function giving examples")
        return target_of(called(a), a), None
    if own or answers:
        return open_target(answers or a, on, score)
    if on or score:
        raise ValueError("diff: --on or --score is given without a model, need --answers or module:function first")
    return None, None


def _side(name: str, target: Any, model: Any, read: Callable[[str], dict[str, Any]]) -> Side:
    """The tensors of a file, named as the model's where there is one; or those of a model."""
    if model is not None:
        return Side(name, {info.name: model.tensor(info.name) for info in model.infos})
    tensors = read(name)
    if target is not None:  # a tree that was saved has slashes
        known = {info.name for info in target.infos}
        tensors = {key if key in known else key.replace("/", "."): value for key, value in tensors.items()}
    from jaxquant.decide.saved import scheme_of

    return Side(name, tensors, scheme_of(Path(name)))


def _by_common_names(a: dict[str, Any], b: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Both with dots for slashes where no name is common as it is: trees that are saved have slashes."""
    dotted = [{name.replace("/", "."): value for name, value in side.items()} for side in (a, b)]
    if a.keys() & b.keys() or any(len(new) != len(old) for new, old in zip(dotted, (a, b), strict=True)):
        return a, b
    return dotted[0], dotted[1]


@contextmanager
def _named_diff() -> Iterator[None]:
    """What decide says of models and examples, under this verb's name."""
    try:
        yield
    except (ValueError, TypeError, OSError) as error:
        if not str(error).startswith("decide: "):
            raise
        raise type(error)("diff: " + str(error).removeprefix("decide: ")) from error


def _print(a: str, b: Path, found: dict[str, Any], equal: bool, top: int) -> None:
    rows = found["tensors"]
    same = sum(row["equal"] for row in rows)
    print(f"{'equal' if equal else 'DIFFERENT'}: {same} of {len(rows)} common tensors have the same values")
    for path, names in ((a, found["only_a"]), (b, found["only_b"])):
        if names:
            shown = printable(", ".join(names[:6]))
            print(f"  only in {path}: {shown}{' ...' if len(names) > 6 else ''} ({len(names)})")
    for row in [row for row in rows if not row["equal"]][:top]:
        name = printable(row["name"])
        kinds = f"{row['kind_a']} / {row['kind_b']}"
        if row["why"]:
            print(f"  {name}: {row['why']}")
            continue
        count = f"{row['differing']:,} of {row['elements']:,}"
        count += f" ({row['not_finite']:,} NaN or infinite)" if row["not_finite"] else ""
        print(f"  {row['error']:.6f} relative, worst {row['worst']:.3g}, {count}  {kinds}  {name}")
    if "answers" in found:
        _print_answers(found["answers"], str(a), str(b))


def _print_answers(told: dict[str, Any], a: str, b: str) -> None:
    from jaxquant.decide.console import change_lines

    points = 0 <= min(told["score_a"], told["score_b"]) <= max(told["score_a"], told["score_b"]) <= 1
    times, form = (100, ".1f") if points else (1, ".4g")
    low, high, middle = (100 * told["same"][k] for k in ("low", "high", "estimate"))
    print(f"answers: {told['changed']} of {told['n']} changed; same {middle:.1f} % [{low:.1f}, {high:.1f}]")
    if told["own_a"]:
        ours, theirs = (_span(told[key], times, form) for key in ("own_a", "own_b"))
        gap = _span(told["change"], times, "+" + form)
        print(f"{printable(told['metric'])}: {ours} against {theirs}, change {gap} (95 %, n = {told['n']})")
    print(f"workload: {printable(told['workload'])}")
    if told["worst"]:
        print(f"worst first: lost, changed, won, each by how far {printable(told['order'])} fell")
    for row in told["worst"]:
        print("", *map(printable, change_lines(row, ("A", "B"))), sep="\n")


def _span(interval: dict[str, Any], times: float, form: str) -> str:
    middle, low, high = (format(times * interval[key], form) for key in ("estimate", "low", "high"))
    return f"{middle} [{low}, {high}]"
