"""The sections of the report below the ladder: changed answers, tensors, outliers, sizes, speed."""

from collections.abc import Mapping
from typing import Any

from jaxquant.decide import report_text as text
from jaxquant.decide.charts import heat_strip, histogram
from jaxquant.decide.report_measure import Measure
from jaxquant.grids import grid
from refquant import formats

MOST_TENSORS, OPEN_TENSORS, MOST_LAYERS, OPEN_CHANGES = 200, 12, 200, 5


def changed(result: Mapping[str, Any], measure: Measure) -> list[dict[str, Any]]:
    """Groups of changed answers by scheme: the winner's (or the one looked at) first, then in the ladder's order."""
    kept = result.get("changed") or []
    led = result.get("changed_by", "")
    subject = winner_of(result) or (result.get("tensors") or {}).get("scheme")
    order = [row["scheme"] for row in result.get("rows") or [] if row.get("verdict")]
    rows = {row["scheme"]: row for row in result.get("rows") or []}
    groups = []
    for scheme in sorted(order, key=lambda name: name != subject):
        mine = [_change(change, measure, led) for change in kept if change["scheme"] == scheme]
        there = _there(result, rows[scheme], mine)
        if any(there.values()) or scheme == subject:
            groups.append({"scheme": scheme, "open": scheme == subject, "told": _told(rows[scheme], there, mine),
                           "there": there, "first": mine[:OPEN_CHANGES], "rest": mine[OPEN_CHANGES:]})  # fmt: skip
    return groups


def _there(result: Mapping[str, Any], row: Mapping[str, Any], kept: list[dict[str, Any]]) -> dict[str, int]:
    """How many of each kind there are, kept here or not; where no answer is right or wrong all are of one kind."""
    found = (result.get("changed_kinds") or {}).get(row["scheme"])
    if found and row.get("lost") is not None:
        return {"lost": found["lost"], "other": found["changed"], "won": found["won"]}
    total = (result.get("changed_counts") or {}).get(row["scheme"], len(kept))
    return {"other": total}


def _told(row: Mapping[str, Any], there: Mapping[str, int], kept: list[dict[str, Any]]) -> str:
    """`94 of 600 answers changed: 40 lost (12 shown), 38 neither (12 shown), 16 won (12 shown)`."""
    total = f"{sum(there.values()):,} of {row['n']:,} answers changed"
    if list(there) == ["other"]:
        return total + _kept(there["other"], "other", kept)
    words = {"lost": "lost", "other": "neither", "won": "won"}
    return f"{total}: {', '.join(f'{there[k]:,} {words[k]}{_kept(there[k], k, kept)}' for k in there)}"


def _kept(count: int, kind: str, kept: list[dict[str, Any]]) -> str:
    shown = sum(change["kind"] == kind for change in kept)
    return f" (the worst {shown} shown)" if shown < count else ""


def _change(change: Mapping[str, Any], measure: Measure, led: str) -> dict[str, Any]:
    was, now = change.get("was_right"), change.get("is_right")
    kind = {(True, False): "lost", (False, True): "won"}.get((was, now), "other") if measure.binary else "other"
    expected = text.clipped(change.get("expected"))
    return {
        "example": change.get("example"),
        "kind": kind,
        "by": "margin" if led else "score",
        "drop": text.signed(-change["drop"], 3) if text.known(change.get("drop")) else text.NONE,
        "question": text.clipped(change.get("question"), 900),
        "block": "\n" in (change.get("question") or ""),
        "expected": expected if not (measure.binary and (was or now)) else "",
        "sides": [
            _side("float", change.get("float"), was, measure),
            _side("quantized", change.get("quantized"), now, measure),
        ],
    }


def _side(name: str, answer: Any, right: Any, measure: Measure) -> dict[str, str]:
    return {
        "name": name,
        "answer": text.clipped(answer),
        "right": ("right" if right else "wrong") if measure.binary else "",
    }


def trainings(result: Mapping[str, Any]) -> list[dict[str, str]]:
    """What the training of each row that has one was; the sentence about its examples stands with the first."""
    rows = [row for row in result.get("rows") or [] if row.get("training")]
    return [{"scheme": row["scheme"], **_training(row["training"])} for row in rows]


def _training(found: Mapping[str, Any]) -> dict[str, str]:
    ended = {"finished": "", "interrupted": ", ended by Ctrl-C"}.get(found["ended"], ", ended by a loss not finite")
    took, foreseen = (_duration(found[key]) for key in ("seconds", "announced_seconds"))
    return {
        "steps": f"{found['steps']} of {found['planned']}{ended}",
        "time": f"{took} ({foreseen} announced)",
        "loss": f"{text.significant(found['loss_start'])} → {text.significant(found['loss_end'])}",
        "how": f"{found['rows']} examples a step out of {text.count(found['examples'])}, seed {found['seed']}",
    }


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.1f}{text.NBSP}minutes" if seconds >= 60 else f"{text.significant(seconds, 2)}{text.NBSP}s"


def tensors(result: Mapping[str, Any]) -> dict[str, Any] | None:
    """Error of each tensor, worst first; bars are shares of the worst."""
    found = result.get("tensors") or {}
    rows = found.get("rows") or []
    if not rows:
        return None
    largest = max((row["error"] for row in rows if text.known(row["error"])), default=0) or 1.0
    shown = [_tensor(row, largest) for row in rows[:MOST_TENSORS]]
    return {
        "scheme": found.get("scheme"),
        "first": shown[:OPEN_TENSORS],
        "rest": shown[OPEN_TENSORS:],
        "left_out": len(rows) - len(shown),
        "count": len(rows),
    }


def _tensor(row: Mapping[str, Any], largest: float) -> dict[str, str]:
    error = row["error"]
    sqnr = f"{text.fixed(row['sqnr_db'])}{text.NBSP}dB" if text.known(row.get("sqnr_db")) else "no error"
    return {
        "name": row["name"],
        "kind": row.get("kind") or "",
        "shape": " × ".join(f"{n:,}" for n in row.get("shape") or []),
        "width": f"{100 * error / largest:.1f}" if text.known(error) else "100",
        "error": text.percent(error, 2),
        "sqnr": sqnr if text.known(error) else text.NONE,
        "worst": text.significant(row.get("worst")),
        "bits": text.fixed(row.get("bits"), 2),
    }


def worst(result: Mapping[str, Any]) -> dict[str, Any] | None:
    """The worst tensor on its grid."""
    found = result.get("worst_tensor") or {}
    if not found.get("counts"):
        return None
    name = f"Weights of {found['name']} on the grid of {found['scheme']}"
    shapes = (("wide", {"width": 920, "height": 240}), ("narrow", {"width": 340, "height": 240}))
    data = (found["edges"], found["counts"], found["grid"])
    return {
        "name": found["name"],
        "scheme": found["scheme"],
        "clipped": text.percent(found.get("clipped"), 2),
        "sampled": len(found["grid"]) < _values(found["scheme"]),
        "charts": [{"class": key, "svg": histogram(*data, name=name, **shape)} for key, shape in shapes],
    }


def _values(name: str) -> int:
    """How many values a format has; 0 where its name says nothing."""
    return len(grid(formats.ALL[name])) if name in formats.ALL else 0


def outliers(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row of the heat map for each layer, in the model's order."""
    return [
        {
            "name": row["name"],
            "strip": heat_strip(row.get("map") or row.get("channels") or [], row.get("median") or 0.0),
            "largest": text.significant(row.get("largest")),
            "median": text.significant(row.get("median")),
            "ratio": text.times(row.get("ratio")),
            "worst": row.get("worst"),
        }
        for row in (result.get("outliers") or [])[:MOST_LAYERS]
    ]


def sizes(result: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the bytes of every row are made of; where only the model's own classes are known, of float alone."""
    rows = result.get("rows") or []
    classes = (result.get("model") or {}).get("classes") or {}
    known = result.get("sizes") or ({"float": {k: v["bytes"] for k, v in classes.items()}} if classes else {})
    shown = [row for row in rows if row["scheme"] in known]
    if not shown:
        return None
    kinds = [
        kind for kind in ("linear", "conv", "embedding", "other") if any(known[r["scheme"]].get(kind) for r in shown)
    ]
    largest = max(row["bytes"] for row in shown) or 1
    bars = [_size_bar(row, known[row["scheme"]], kinds, largest, result) for row in shown]
    weights = [
        (kind, text.count(classes[kind]["weights"]), classes[kind]["tensors"]) for kind in kinds if kind in classes
    ]
    return {"kinds": kinds, "rows": bars, "weights": weights}


def _size_bar(row: Mapping[str, Any], found: Mapping[str, int], kinds: list[str], largest: int, result: Any) -> dict:
    parts = [(kind, found.get(kind, 0)) for kind in kinds]
    parts.append(("header", max(row["bytes"] - sum(n for _, n in parts), 0)))
    return {
        "scheme": row["scheme"],
        "winner": row["scheme"] == winner_of(result),
        "size": text.size(row["bytes"]),
        "parts": [{"kind": kind, "size": text.size(n), "width": f"{100 * n / largest:.2f}"} for kind, n in parts],
    }


def speed(result: Mapping[str, Any]) -> dict[str, Any] | None:
    """Timings by batch; bars are shares of the slowest."""
    found = result.get("speed") or {}
    rows = found.get("rows") or []
    if not rows:
        return None
    longest = max((row["ratio"] for row in rows if text.known(row["ratio"])), default=1.0)
    shown = [_timing(row, max(longest, 1.0), row["what"] == rows[0]["what"]) for row in rows]
    batches = list(dict.fromkeys(row["batch"] for row in rows))
    groups = [{"batch": b, "rows": [r for r in shown if r["batch"] == b]} for b in batches]
    return {"sentence": text.prose(found.get("sentence")), "groups": groups, "one": f"{100 / max(longest, 1.0):.1f}"}


def _timing(row: Mapping[str, Any], longest: float, base: bool) -> dict[str, Any]:
    ratio = row["ratio"]
    word = "slower" if ratio > 1.05 else "faster" if ratio < 0.95 else "about the same"
    return {
        "what": row["what"],
        "batch": row["batch"],
        "ms": f"{text.significant(row['milliseconds'])}{text.NBSP}ms",
        "ratio": text.times(ratio),
        "word": "the reference" if base else word,
        "look": "base" if base else {"slower": "slow", "faster": "fast"}.get(word, "even"),
        "width": f"{100 * ratio / longest:.1f}" if text.known(ratio) else "0",
        "bytes": text.size(row.get("weight_bytes")),
    }


def winner_of(result: Mapping[str, Any]) -> str | None:
    """The recommended row, if there is one."""
    return (result.get("decision") or {}).get("winner")
