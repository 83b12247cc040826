"""The bar a user states: how much may be lost, or what must be reached (rule DEC-5).

Every bar is one sentence of the form "value >= threshold", so that one rule judges all three kinds.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

FORMS = "lose<=2 (points), score>=0.8 or same>=95%"
_TEXT = re.compile(r"\s*(\w+)\s*(<=|>=|<|>|==?)\s*([-+.\w]+?)\s*(%|points?)?\s*")


@dataclass(frozen=True)
class Bar:
    """What a quantized model must keep; exactly one field is set, `Bar()` is "lose at most 2 points".

    Attributes:
      points: most points of the score that may be lost against float, in [0, 100); a score of 0..1 has 100 points.
      score: least score of the quantized model, in the score's own unit.
      same: least share of unchanged answers, in (0, 1].

    Spec: DEC-5 (specs/70-decide.md).
    Example:
      >>> str(Bar()), Bar(same=0.95).threshold
      ('lose<=2', 0.95)
    """

    points: float | None = None
    score: float | None = None
    same: float | None = None

    def __post_init__(self) -> None:
        given = [name for name in ("points", "score", "same") if getattr(self, name) is not None]
        if not given:
            object.__setattr__(self, "points", 2.0)
        elif len(given) > 1:
            raise ValueError(f"Bar: {' and '.join(given)} are given, need one (a bar is one sentence)")
        _check(self)

    @property
    def kind(self) -> str:
        """The field that is set: "points", "score" or "same"."""
        return next(name for name in ("points", "score", "same") if getattr(self, name) is not None)

    @property
    def threshold(self) -> float:
        """The least good value: of the change against float (a fraction, negative), of the score, or of the share."""
        return -self.points / 100 if self.points is not None else float(getattr(self, self.kind))

    def __str__(self) -> str:
        """The text that `parse_bar` reads back."""
        if self.points is not None:
            return f"lose<={_short(self.points)}"
        if self.same is not None:
            return f"same>={_short(100 * self.same)}%"
        return f"score>={_short(self.score)}"

    def as_dict(self) -> dict[str, Any]:
        """Kind, threshold and text, JSON-friendly."""
        return {"kind": self.kind, "threshold": self.threshold, "text": str(self)}


def _short(value: float | None) -> str:
    return f"{value:.12g}"


def _check(bar: Bar) -> None:
    value = getattr(bar, bar.kind)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"Bar: {bar.kind} is {value!r}, need a finite number")
    if bar.kind == "points" and not 0 <= value < 100:
        raise ValueError(f"Bar: points is {value}, need 0 <= points < 100 (100 points is all there is to lose)")
    if bar.kind == "same" and not 0 < value <= 1:
        raise ValueError(f"Bar: same is {value}, need 0 < same <= 1 (a share of the answers; 0.95 is 95 %)")


def refuse_unreachable(bar: Bar, low: float = 0.0, high: float = 1.0) -> None:
    """A bar on the score must be one that scores in [low, high] can miss and can reach; other bars pass.

    Raises:
      ValueError: it is not; a bar in per cent that lacks its sign is told how to write it.

    Spec: DEC-5 (specs/70-decide.md).
    """
    if bar.kind != "score" or low < bar.threshold <= high:
        return
    why, percent = "the score cannot miss or cannot reach it", bar.threshold
    if (low, high) == (0, 1) and 1 < percent <= 100:
        why = f"scores are shares: score>={_short(percent / 100)} or score>={_short(percent)}%"
    raise ValueError(f"decide: bar is '{bar}', need a value in ({low:g}, {high:g}] ({why})")


def parse_bar(text: str) -> Bar:
    """A Bar from text: "lose<=2", "score>=0.8" (or "score>=80%"), "same>=95%".

    Args:
      text: spaces do not matter; "points" after the number of `lose` may be written.
    Returns:
      Bar; `parse_bar(str(bar)) == bar`.
    Raises:
      ValueError: not one of the three forms, or a number without meaning (negative, 100 points or more, NaN).

    Spec: DEC-5 (specs/70-decide.md).
    Example:
      >>> parse_bar("lose <= 1.5 points").points
      1.5
    """
    if not isinstance(text, str):
        raise ValueError(f"parse_bar: bar is {text!r}, need a text: {FORMS}")
    found = _TEXT.fullmatch(text)
    if found is None:
        raise ValueError(f"parse_bar: bar is {text!r}, need {FORMS}")
    name, sign, digits, unit = found.groups()
    wanted = {"lose": "<=", "score": ">=", "same": ">="}.get(name)
    if wanted is None:
        raise ValueError(f"parse_bar: bar {text!r} is about {name!r}, need {FORMS}")
    if sign != wanted:
        raise ValueError(f"parse_bar: bar {text!r} has {sign!r}, need {name}{wanted}... (the edge itself is good)")
    return _build(text, name, _number(text, digits), unit)


def _number(text: str, digits: str) -> float:
    try:
        return float(digits)
    except ValueError:
        raise ValueError(f"parse_bar: bar {text!r} has {digits!r}, need a number, as in {FORMS}") from None


def _build(text: str, name: str, value: float, unit: str | None) -> Bar:
    if name == "lose":
        if unit == "%":
            raise ValueError(f"parse_bar: bar {text!r} is in %, need points of the score (lose<=2: from 80 % to 78 %)")
        return Bar(points=value)
    if unit not in ("%", None):
        raise ValueError(f"parse_bar: bar {text!r} is in points, need {FORMS}")
    if name == "same":
        if unit is None:
            raise ValueError(f"parse_bar: bar {text!r} has no unit, need a %, as in same>=95%")
        return Bar(same=round(value / 100, 12))
    return Bar(score=round(value / 100, 12) if unit else value)
