"""The unit of a report: what the bar is about, and how its values are written."""

from collections.abc import Mapping
from typing import Any

from jaxquant.decide import report_text as text


class Measure:
    """What the bar is about, and in which unit it is drawn: points, per cent, or the score's own unit.

    Attributes:
      kind: "points", "score" or "same".
      bar: the bar as text; threshold: the least good value, in drawn units.
      axis: what is drawn, with its unit; column: the short form.
      miss: how often an interval misses, as text.
      score_unit: 100 where scores lie in [0, 1] and the bar does not name a score, else 1.
      binary: whether answers are right or wrong.
      level: of the intervals, as text.
    """

    def __init__(self, result: Mapping[str, Any]):
        """Reads bar and rows."""
        bar, rows = result.get("bar") or {}, result.get("rows") or []
        metric = (result.get("workload") or {}).get("metric") or "score"
        self.kind, self.bar, self.metric = bar.get("kind") or "points", text.prose(bar.get("text")), metric
        self.unit = 1.0 if self.kind == "score" else 100.0
        self.threshold = self.unit * (bar.get("threshold") or 0.0)
        inside = all(0 <= row["score"] <= 1 for row in rows if text.known(row.get("score")))
        self.score_unit = 100.0 if inside and self.kind != "score" else 1.0
        self.column = {"points": "Change", "same": "Same answers", "score": "Score"}[self.kind]
        self.axis = {"points": "change of the score, points", "same": "unchanged answers, %", "score": metric}[
            self.kind
        ]
        self.binary = any(row.get("lost") is not None for row in rows)
        levels = [row["verdict"]["interval"]["level"] for row in rows if row.get("verdict")] or [0.95]
        self.level, self.miss = (text.level(share) for share in (levels[0], 1 - levels[0]))

    @property
    def asked(self) -> str:
        """The bar as a sentence."""
        limit = f"{abs(self.threshold):.6g}"
        return {
            "points": f"lose at most {limit} {'point' if limit == '1' else 'points'} of {self.metric} against float",
            "same": f"keep at least {limit} % of the float model's answers",
            "score": f"reach a {self.metric} of at least {limit}",
        }[self.kind]

    def value(self, value: float | None) -> str:
        """A value of the bar's kind."""
        if self.kind == "points":
            return text.signed(None if value is None else 100 * value)
        return text.percent(value) if self.kind == "same" else text.significant(value, 4)

    def score(self, value: float | None) -> str:
        """A score."""
        if not text.known(value):
            return text.NONE
        return text.fixed(100 * value) if self.score_unit == 100 else text.significant(value, 4)

    def own(self, interval: Mapping[str, Any] | None) -> str:
        """The interval of a score, "59.7 to 67.5"."""
        return f"{self.score(interval['low'])} to {self.score(interval['high'])}" if interval else ""

    def span(self, interval: Mapping[str, Any] | None) -> str:
        """An interval of the bar's kind, "−2.0 to +0.5"."""
        return f"{self.value(interval['low'])} to {self.value(interval['high'])}" if interval else ""
