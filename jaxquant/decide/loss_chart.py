"""Bytes against loss: every row of the ladder as a numbered mark with its interval, and the bar as a line.

Sizes are logarithmic: half the size is the same step everywhere.  Rows of one size would hide each other: they are
drawn side by side, and a thin foot leads to the true size.  A broken row would flatten all others: what lies far below
the bar stands in a strip of its own, with its value written.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from markupsafe import Markup

from jaxquant.decide.charts import glyph, number, picture, spread, tag, ticks

TOP, FOOT, LEFT, RIGHT, STRIP = 40, 58, 46, 58, 47
LINE, LETTER = 13, 7  # pixels of a line of values in the strip, and at most of one of their letters
GAP = 15  # pixels between neighbouring marks: whiskers apart, and no mark far from its size
REACH = 18  # pixels in which a foot leads from a mark to its size


@dataclass(frozen=True)
class Point:
    """One row: its number in the ladder, name, bytes, value with interval (drawn units), verdict, is it the winner."""

    label: str
    name: str
    bytes: int
    low: float
    value: float
    high: float
    result: str
    winner: bool = False


@dataclass(frozen=True)
class Frame:
    """Where values lie on the page.

    Attributes:
      width: in pixels.
      height: likewise.
      sizes: the ends of the axis of bytes.
      floor: the lowest drawn value.
      roof: the highest.
      lines: how many lines of values the strip far below has; 0 is no strip.
    """

    width: int
    height: int
    sizes: tuple[float, float]
    floor: float
    roof: float
    lines: int

    @property
    def mark(self) -> float:
        """Half the width of a mark."""
        return 8.5 if self.width > 500 else 7.5

    @property
    def base(self) -> float:
        """The y of the axis, above ticks and strip."""
        return float(self.height - FOOT - (STRIP + LINE * self.lines if self.lines else 0))

    def x(self, size: float) -> float:
        """Of a size."""
        low, high = self.sizes
        return LEFT + math.log(max(size, low) / low) / math.log(high / low) * (self.width - LEFT - RIGHT)

    def y(self, value: float) -> float:
        """Of a value; values below the floor lie on the axis."""
        share = (max(value, self.floor) - self.floor) / (self.roof - self.floor)
        return self.base - share * (self.base - TOP)


def window(points: Sequence[Point], bar: float, reference: float | None) -> tuple[float, float]:
    """The ends of the drawn values: every open or passing interval, bar and float, and half as much again below."""
    anchors = [bar] if reference is None else [bar, reference]
    near = [p for p in points if p.result != "FAIL"]
    roof = max([*anchors, *(p.high for p in points)])
    low = min([*anchors, *(p.low for p in near)])
    span = roof - low
    floor = max(min([low, *(p.low for p in points)]), low - 0.5 * span)
    edge = max(0.06 * (roof - floor), 1e-6 * max(abs(roof), 1.0))  # all values equal: still a picture
    return floor - edge, roof + edge


def loss_chart(
    points: Sequence[Point],
    *,
    bar: float,
    reference: float | None,
    float_bytes: int,
    axis: str,
    bytes_text: Callable[[float], str],
    width: int,
    height: int,
) -> Markup:
    """The chart.

    Args:
      points: rows of the ladder without float, at least one.
      bar: the least good value, in the points' unit.
      reference: float's own value in that unit, None where float has none.
      float_bytes: size of the float file.
      axis: what is drawn upwards, with its unit.
      bytes_text: how a size is written.
      width: in pixels; text keeps its size, so draw one for each width.
      height: in pixels.
    """
    floor, roof = window(points, bar, reference)
    sizes = [p.bytes for p in points] + [float_bytes]
    frame = Frame(width, height, (max(min(sizes), 1) / 1.15, max(*sizes, 1) * 1.1), floor, roof, 0)
    *xs, float_x = spread([frame.x(size) for size in sizes], GAP, LEFT + 12.0, width - RIGHT - 12.0)
    lines = _lines(points, xs, floor)
    frame = replace(frame, lines=max(lines, default=0))
    parts = [*_axes(frame, axis, bytes_text), *_levels(frame, bar, reference)]
    for size, x in zip(sizes, [*xs, float_x], strict=True):
        parts += _feet(frame, frame.x(size), x)
    for point, x, line in zip(points, xs, lines, strict=True):
        parts += _mark(frame, point, x, axis, line)
    if reference is not None:
        parts += glyph("", "F", x=float_x, y=frame.y(reference), size=frame.mark)
    return picture(
        *parts, width=width, height=height, name="Bytes against loss", about=_told(points, axis), class_="chart"
    )


def _lines(points: Sequence[Point], xs: Sequence[float], floor: float) -> list[int]:
    """The line of the strip in which a point's value is written, from 1, none over another; 0 above the strip."""
    lines, ends = [0] * len(points), [-math.inf]
    for i in sorted(range(len(points)), key=lambda i: xs[i]):
        if points[i].value < floor:
            half = LETTER * len(_far(points[i])) / 2
            line = next((k for k, end in enumerate(ends) if end <= xs[i] - half), len(ends))
            ends[line : line + 1] = [xs[i] + half]
            lines[i] = line + 1
    return lines


def _far(point: Point) -> str:
    return number(round(point.value, 1))


def size_ticks(low: float, high: float, most: int) -> list[float]:
    """At most so many round sizes on a logarithmic axis, or evenly spaced ones where hardly any fit."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found = [float(k * 10**power) for power in powers for k in (1, 2, 3, 5, 7) if low <= k * 10**power <= high]
    found = found[:: -(-len(found) // most) or 1]
    return found if len(found) > 1 else ticks(low, high, 3)


def _axes(frame: Frame, axis: str, bytes_text: Callable[[float], str]) -> list[Markup]:
    end, base = frame.width - RIGHT, frame.base
    foot = frame.height - FOOT
    parts = []
    for value in ticks(frame.floor, frame.roof, 7):
        y = frame.y(value)
        parts.append(tag("line", class_="grid", x1=LEFT, x2=end, y1=y, y2=y))
        parts.append(tag("text", number(value), x=LEFT - 8, y=y + 4, class_="tick", text_anchor="end"))
    for size in size_ticks(*frame.sizes, 7 if frame.width > 500 else 3):
        x = frame.x(size)
        parts.append(tag("line", class_="axis", x1=x, x2=x, y1=foot, y2=foot + 5))
        parts.append(tag("text", bytes_text(size), x=x, y=foot + 19, class_="tick", text_anchor="middle"))
    parts.append(tag("line", class_="axis", x1=LEFT, x2=end, y1=foot, y2=foot))
    if frame.lines:
        parts.append(tag("line", class_="break", x1=LEFT, x2=end, y1=base, y2=base))
        parts.append(tag("text", "far", x=LEFT - 8, y=base + 20, class_="tick", text_anchor="end"))
        parts.append(tag("text", "below", x=LEFT - 8, y=base + 33, class_="tick", text_anchor="end"))
    middle = (LEFT + end) / 2
    parts.append(
        tag("text", "size of the file, logarithmic", x=middle, y=frame.height - 16, class_="tick", text_anchor="middle")
    )
    parts.append(tag("text", "↑ " + axis, x=4, y=14, class_="tick strong"))
    return parts


def _levels(frame: Frame, bar: float, reference: float | None) -> list[Markup]:
    end = frame.width - RIGHT
    y = frame.y(bar)
    below = frame.height - FOOT - y
    parts = [
        tag("rect", class_="worse", x=LEFT, y=y, width=end - LEFT, height=below),
        tag("line", class_="bar-line", x1=LEFT, x2=end, y1=y, y2=y),
    ]
    the_bar = f"bar {number(bar)}"
    names = {the_bar: y}
    if reference is not None:
        names["float"] = frame.y(reference)
        parts.append(tag("line", class_="axis", x1=LEFT, x2=end, y1=names["float"], y2=names["float"]))
    places = spread(list(names.values()), 15, float(TOP), frame.height - FOOT - 6.0)
    look = {the_bar: "tick strong", "float": "tick"}
    for name, place in zip(names, places, strict=True):
        parts.append(tag("text", name, x=end + 6, y=place + 4, class_=look[name]))
    return parts


def _feet(frame: Frame, true: float, drawn: float) -> list[Markup]:
    foot = frame.height - FOOT
    lead = f"M{true:.1f} {foot + 5}L{true:.1f} {foot}L{drawn:.1f} {foot - REACH}"
    return [tag("path", class_="foot", d=lead)]


def _mark(frame: Frame, point: Point, x: float, axis: str, line: int) -> list[Markup]:
    look = f"whisker {point.result.lower()}"
    told = tag("title", f"{point.label} {point.name}: {number(round(point.value, 3))} ({axis}), {point.result}")
    if line:
        y = frame.base + 17.0
        arrow = tag("path", class_=look, d=f"M{x:.1f} {y - 16:.1f}l-4 5m4-5l4 5", fill="none")
        value = tag("text", _far(point), x=x, y=y + 7 + LINE * line, class_="tick", text_anchor="middle")
        return [tag("g", told, arrow, *glyph(point.result, point.label, x=x, y=y, size=frame.mark), value)]
    low, high, y = frame.y(point.low), frame.y(point.high), frame.y(point.value)
    ends = f"M{x - 4:.1f} {high:.1f}h8M{x:.1f} {high:.1f}V{low:.1f}"
    ends += f"M{x - 4:.1f} {low:.1f}h8" if point.low >= frame.floor else "m-4 -5l4 5l4 -5"
    parts = [told, tag("path", class_=look, d=ends, fill="none")]
    if point.winner:
        parts.append(tag("circle", class_="ring", cx=x, cy=y, r=frame.mark + 4))
    return [
        tag("g", *parts, *glyph(point.result, point.label, x=x, y=y, size=frame.mark)),
        *_winner(frame, point, x, high),
    ]


def _winner(frame: Frame, point: Point, x: float, high: float) -> list[Markup]:
    if not point.winner:
        return []
    room, half = frame.width - 8, 4.1 * (len(point.name) + 2)
    place = min(max(x, half + 4), room - half)
    lead = tag("line", class_="foot", x1=x, x2=x, y1=TOP - 4, y2=max(high - 3.0, TOP - 4.0))
    return [lead, tag("text", f"★ {point.name}", x=place, y=TOP - 8, class_="tick strong", text_anchor="middle")]


def _told(points: Sequence[Point], axis: str) -> str:
    counts = {name: sum(p.result == name for p in points) for name in ("PASS", "UNSURE", "FAIL")}
    best = next((f" Recommended: {p.name}, {number(round(p.value, 3))}." for p in points if p.winner), "")
    verdicts = ", ".join(f"{n} {name}" for name, n in counts.items() if n)
    return f"{len(points)} files by size and {axis}: {verdicts}.{best} All numbers stand in the table that follows."
