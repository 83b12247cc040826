"""What the report page shows, made from the result: words, marks and shares of bars; the template only lays it out."""

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup, escape

from jaxquant.decide import report_details as details
from jaxquant.decide import report_text as text
from jaxquant.decide.charts import HEAT, badge
from jaxquant.decide.loss_chart import Point, loss_chart
from jaxquant.decide.report_details import winner_of
from jaxquant.decide.report_measure import Measure

HEADLINES = {
    "PASS": "Yes: a smaller file is good enough",
    "FAIL": "No: every smaller file loses too much",
    "UNSURE": "Not shown yet: more examples are needed",
    "": "No decision was made",
}
MISSED = "No: float itself does not reach the bar"
MARKS = {"PASS": "✓", "FAIL": "×", "UNSURE": "?", "": "F"}
WIDE, NARROW = {"width": 920, "height": 420}, {"width": 340, "height": 430}


def view(result: Mapping[str, Any]) -> dict[str, Any]:
    """Everything the template needs; a section that the result lacks is None or empty."""
    rows = list(result.get("rows") or [])
    measure = Measure(result)
    return {
        "model": result.get("model") or {},
        "workload": result.get("workload") or {},
        "measure": measure,
        "decision": _decision(result, measure),
        "facts": _facts(result, measure),
        "marks": {name or "float": badge(name, label) for name, label in MARKS.items()},
        "heat_legend": heat_legend(),
        "charts": _charts(result, measure),
        "ladder": [ladder_row(row, k, result, measure) for k, row in enumerate(rows)],
        "trainings": details.trainings(result),
        "binary": measure.binary,
        "changed": details.changed(result, measure),
        "below": [text.prose(told) for told in (result.get("cancelled"), result.get("caution")) if told],
        "led": result.get("changed_by", ""),
        "tensors": details.tensors(result),
        "worst": details.worst(result),
        "outliers": details.outliers(result),
        "sizes": details.sizes(result),
        "speed": details.speed(result),
        "bits": result.get("bits") or {},
        "saved": result.get("saved"),
        "source": result.get("source") or {},
        "provenance": result.get("provenance") or {},
        "seconds": result.get("seconds"),
    }


def _decision(result: Mapping[str, Any], measure: Measure) -> dict[str, Any]:
    made = result.get("decision") or {}
    verdict = made.get("result") or ""
    return {
        "result": verdict,
        "headline": MISSED if _float_misses(result, measure) else HEADLINES.get(verdict, HEADLINES[""]),
        "sentence": _sentence(made),
        "four_bits": text.prose(made.get("four_bits")),
        "winner": made.get("winner"),
        "badge": badge(verdict, MARKS[verdict] if verdict else text.NONE),
        "asked": measure.asked,
    }


def _float_misses(result: Mapping[str, Any], measure: Measure) -> bool:
    """Whether float's own score lies below a bar on the score, and no quantized row is recommended."""
    own = next((row.get("own") for row in result.get("rows") or [] if not row.get("verdict")), None)
    return not winner_of(result) and measure.kind == "score" and bool(own) and own["high"] < measure.threshold


def _sentence(made: Mapping[str, Any]) -> Markup:
    """The decision, with the recommended scheme set apart."""
    told = escape(text.prose(made.get("sentence") or "The run ended before a decision."))
    name = escape(made.get("winner") or "")
    return Markup(told.replace(name, Markup("<b>{}</b>").format(made["winner"]), 1)) if name else told


def _facts(result: Mapping[str, Any], measure: Measure) -> list[dict[str, str]]:
    """The few numbers beside the decision: of the winner against float, or of float alone."""
    rows = {row["scheme"]: row for row in result.get("rows") or []}
    base, row = rows.get("float"), rows.get(winner_of(result))
    if base is None:
        return []
    if row is None:
        return [
            {"what": "float file", "value": text.size(base["bytes"]), "more": "nothing smaller is recommended"},
            {"what": f"{measure.metric} of float", "value": measure.score(base["score"]), "more": _own(base, measure)},
        ]
    share = row["bytes"] / max(base["bytes"], 1)
    found = [
        {"what": "file", "value": text.size(row["bytes"]),
         "more": f"{text.percent(share, 0)} of float's {text.size(base['bytes'])}"},
        {"what": measure.metric, "value": measure.score(row["score"]),
         "more": f"float: {measure.score(base['score'])}, {_own(base, measure)}"},
    ]  # fmt: skip
    if row.get("lost") is not None:
        found.append({"what": "answers", "value": f"{row['lost']} lost, {row['won']} won", "more": f"of {row['n']:,}"})
    if row.get("same"):
        found.append(
            {"what": "unchanged answers", "value": text.percent(row["same"]["estimate"]), "more": _same_span(row)}
        )
    return found


def _own(base: Mapping[str, Any], measure: Measure) -> str:
    """The interval of float's own score, where it has one, and n."""
    return ", ".join(filter(None, [measure.own(base.get("own")), f"n = {base['n']:,}"]))


def _same_span(row: Mapping[str, Any]) -> str:
    same = row.get("same")
    return f"{text.fixed(100 * same['low'])} to {text.percent(same['high'])}" if same else ""


def _charts(result: Mapping[str, Any], measure: Measure) -> list[dict[str, Any]]:
    """The chart twice, for wide and for narrow pages: text keeps its size."""
    rows = result.get("rows") or []
    base = next((row for row in rows if row["scheme"] == "float"), None)
    points = [_point(row, k, measure, winner_of(result)) for k, row in enumerate(rows) if _drawable(row)]
    if not points or base is None:
        return []
    reference = {"points": 0.0, "same": 100.0, "score": base["score"]}[measure.kind]
    common = {"bar": measure.threshold, "reference": reference, "float_bytes": base["bytes"], "axis": measure.axis}
    return [
        {"class": name, "svg": loss_chart(points, **common, bytes_text=text.size_tick, **shape)}
        for name, shape in (("wide", WIDE), ("narrow", NARROW))
    ]


def _drawable(row: Mapping[str, Any]) -> bool:
    verdict = row.get("verdict")
    return bool(verdict) and all(text.known(verdict["interval"][k]) for k in ("low", "estimate", "high"))


def _point(row: Mapping[str, Any], k: int, measure: Measure, winner: str | None) -> Point:
    found = row["verdict"]["interval"]
    low, value, high = (measure.unit * found[key] for key in ("low", "estimate", "high"))
    won = row["scheme"] == winner
    return Point(str(k), row["scheme"], row["bytes"], low, value, high, row["verdict"]["result"], won)


def ladder_row(row: Mapping[str, Any], k: int, result: Mapping[str, Any], measure: Measure) -> dict[str, Any]:
    """One row of the table, as text."""
    verdict = row.get("verdict")
    outcome = verdict["result"] if verdict else ""
    return {
        "mark": badge(outcome, str(k) if verdict else "F"),
        "scheme": row["scheme"],
        "about": row.get("about") or "",
        "winner": row["scheme"] == winner_of(result),
        "size": text.size(row["bytes"]),
        "bits": text.fixed(row.get("bits_per_weight"), 2),
        "score": measure.score(row.get("score")),
        "own": measure.own(row.get("own")),
        "value": measure.value(verdict["interval"]["estimate"]) if verdict else "",
        "span": measure.span(verdict["interval"]) if verdict else "",
        "lost": text.count(row.get("lost")) if verdict else "",
        "won": text.count(row.get("won")) if verdict else "",
        "same": text.percent(row["same"]["estimate"]) if row.get("same") else text.NONE if verdict else "",
        "same_span": _same_span(row),
        "result": outcome,
        "note": text.prose(verdict["note"]) if verdict else f"what all others are compared with, n = {row['n']:,}",
    }


def heat_legend() -> list[str]:
    """What each level of the heat map means."""
    edges = [f"{edge:g}" for edge in HEAT]
    between = [f"{low}–{high}×" for low, high in zip(edges[:-1], edges[1:], strict=True)]
    return [f"below {edges[0]}×", *between, f"{edges[-1]}× and more"]
