"""Two files compared: names, shapes, every bit of every value, and their answers where there is a workload."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from jaxquant.decide.bits import differing
from jaxquant.qtensor import QTensor, dequantize_tensor
from jaxquant.store import load
from jaxquant.store_stacked import as_whole
from refquant.files.printable import printable


def compare(a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
    """Tensors by name.

    Args:
      a: name → array or QTensor, as `store.load` gives them.
      b: likewise.
    Returns:
      dict with only_a, only_b (names) and tensors: dicts with name, equal, why, differing, elements, worst (largest
      |a − b|), error (‖a − b‖ / ‖a‖), worst first.
    """
    rows = [_one(name, a[name], b[name]) for name in a if name in b]
    rows.sort(key=lambda row: (row["equal"], -(row["error"] or float("inf"))))
    return {"only_a": sorted(set(a) - set(b)), "only_b": sorted(set(b) - set(a)), "tensors": rows}


def _one(name: str, a: Any, b: Any) -> dict[str, Any]:
    x, y = _values(a), _values(b)
    row: dict[str, Any] = {"name": name, "elements": int(x.size), "kind_a": _kind(a), "kind_b": _kind(b)}
    if x.shape != y.shape:
        return row | {
            "equal": False,
            "why": f"shape {x.shape} against {y.shape}",
            "differing": None,
            "worst": None,
            "error": None,
        }
    count = (
        differing(x, y) if x.dtype == y.dtype else int(np.count_nonzero(x.astype(np.float64) != y.astype(np.float64)))
    )
    x64, y64 = x.astype(np.float64), y.astype(np.float64)
    finite = np.isfinite(x64) & np.isfinite(y64)
    x64, y64 = np.where(finite, x64, 0.0), np.where(finite, y64, 0.0)
    off, power = x64 - y64, x64
    norm = float(np.linalg.norm(power))
    error = float(np.linalg.norm(off)) / norm if norm else float(np.any(off))
    return row | {
        "equal": count == 0,
        "why": "",
        "differing": count,
        "worst": float(np.max(np.abs(off), initial=0)),
        "error": error,
    }


def _values(tensor: Any) -> np.ndarray:
    return np.asarray(dequantize_tensor(as_whole(tensor)) if isinstance(tensor, QTensor) else tensor)


def _kind(tensor: Any) -> str:
    return str(tensor.spec.fmt.name) if isinstance(tensor, QTensor) else str(tensor.dtype)


def compare_answers(folder: Path, a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
    """How the answers of a bert folder's model differ between two sets of weights, on the docstring workload."""
    from jaxquant.decide.intervals import share_interval
    from jaxquant.decide.targets.nnx_target import open_bert
    from jaxquant.decide.workloads import docstrings

    target, work = open_bert(folder), docstrings.open_workload(folder)
    first, second = (
        work.evaluate(target.forward({name: _values(value).astype(np.float32) for name, value in part.items()}))
        for part in (a, b)
    )
    same = first.same_as(second)
    interval = share_interval(int(np.count_nonzero(same)), len(same))
    return {
        "workload": work.describe().splitlines()[0],
        "n": len(same),
        "changed": int(np.count_nonzero(~same)),
        "same": interval.as_dict(),
        "score_a": float(np.mean(first.score)),
        "score_b": float(np.mean(second.score)),
    }


def diff_command(a: Path, b: Path, *, answers: Path | None, top: int, as_json: bool) -> int:
    """Runs the verb: 0 where every value is equal, 1 where something differs.

    Raises:
      ValueError: a bad file.
    """
    first, second = load(a), load(b)
    found = compare(first, second)
    if answers is not None:
        found["answers"] = compare_answers(answers, first, second)
    equal = not found["only_a"] and not found["only_b"] and all(row["equal"] for row in found["tensors"])
    if as_json:
        print(json.dumps(found | {"equal": equal}, indent=1))
    else:
        _print(a, b, found, equal, top)
    return 0 if equal else 1


def _print(a: Path, b: Path, found: dict[str, Any], equal: bool, top: int) -> None:
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
        print(f"  {row['error']:.6f} relative, worst {row['worst']:.3g}, {count}  {kinds}  {name}")
    if "answers" in found:
        told = found["answers"]
        low, high, middle = (100 * told["same"][k] for k in ("low", "high", "estimate"))
        print(f"answers: {told['changed']} of {told['n']} changed; same {middle:.1f} % [{low:.1f}, {high:.1f}]")
        print(f"score: {100 * told['score_a']:.1f} against {100 * told['score_b']:.1f} (n = {told['n']})")
        print(f"workload: {told['workload']}")
