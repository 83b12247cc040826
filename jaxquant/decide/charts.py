"""Small SVG: elements, ticks, labels that do not overlap; the histogram and the heat strip of the report.

Colours are CSS classes, so that one drawing serves light, dark and paper; every picture has a title and a description
for who cannot see it, and tells nothing by colour alone.
"""

import math
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup, escape

HEAT = (1.0, 1.5, 2.0, 3.0, 5.0, 8.0, 16.0)  # edges of the heat levels, in medians of the layer


def tag(name: str, *content: Any, **attributes: Any) -> Markup:
    """One element; text is escaped, numbers have at most two decimals, `class_` and `stroke_width` name attributes."""
    given = {k.rstrip("_").replace("_", "-"): v for k, v in attributes.items() if v is not None}
    told = "".join(f' {key}="{escape(_short(value))}"' for key, value in given.items())
    inside = Markup("").join(escape(part) for part in content)
    return Markup(f"<{name}{told}>{inside}</{name}>" if content else f"<{name}{told}/>")


def _short(value: Any) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def picture(*content: Any, width: int, height: int, name: str, about: str, class_: str = "") -> Markup:
    """An SVG with a text alternative: a name, and what a reader would see."""
    return tag(
        "svg",
        tag("title", name),
        tag("desc", about),
        *content,
        viewBox=f"0 0 {width} {height}",
        width=width,
        height=height,
        role="img",
        aria_label=f"{name}. {about}",
        class_=class_ or None,
    )


def ticks(low: float, high: float, count: int) -> list[float]:
    """About `count` round numbers (1, 2 or 5 times a power of ten apart) within [low, high]."""
    if not high > low:
        return [low]
    raw = (high - low) / max(count, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * k for k in (1, 2, 5, 10) if power * k >= raw * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(k * step, 12) for k in range(first, last + 1)]


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Positions at least `gap` apart, as near to the wanted ones as can be, within [low, high] if they fit.

    Neighbours that are too close are pooled and centred on their mean (isotonic regression of wanted - rank * gap).
    """
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    if len(wanted) > 1:
        gap = min(gap, (high - low) / (len(wanted) - 1))
    pools: list[list[float]] = []  # [sum, count]
    for rank, i in enumerate(order):
        pools.append([wanted[i] - rank * gap, 1])
        while len(pools) > 1 and pools[-2][0] / pools[-2][1] > pools[-1][0] / pools[-1][1]:
            total, count = pools.pop()
            pools[-1] = [pools[-1][0] + total, pools[-1][1] + count]
    flat = [total / count for total, count in pools for _ in range(int(count))]
    last = high - gap * max(len(wanted) - 1, 0)
    placed = {i: min(max(flat[rank], low), last) + rank * gap for rank, i in enumerate(order)}
    return [placed[i] for i in range(len(wanted))]


def histogram(
    edges: Sequence[float], counts: Sequence[int], grid: Sequence[float], *, width: int, height: int, name: str
) -> Markup:
    """Bars of a tensor in units of its own scales, with the values of its format drawn through them.

    Args:
      edges: ascending, one more than counts.
      counts: weights in each bin.
      grid: values of the format, ascending.
      width: of the picture, in pixels.
      height: the same.
      name: what it shows.
    """
    left, right, top, foot = 12, 12, 8, 40
    span = (edges[-1] - edges[0]) or 1.0
    base, tall = height - foot, height - foot - top

    def at(value: float) -> float:
        return left + (value - edges[0]) / span * (width - left - right)

    peak = max(max(counts), 1)
    bars = [
        tag("rect", class_="bar-fill", x=at(a), y=base - tall * n / peak, width=at(b) - at(a), height=tall * n / peak)
        for a, b, n in zip(edges[:-1], edges[1:], counts, strict=True)
        if n
    ]
    upper = float(top) if len(grid) <= 20 else base - 9.0  # many lines would hide the bars
    lines = [tag("line", class_="grid-value", x1=at(v), x2=at(v), y1=upper, y2=base + 6.0) for v in grid]
    labels = [
        tag("text", number(v), x=at(v), y=base + 20, class_="tick", text_anchor="middle")
        for v in ticks(edges[0], edges[-1], 8 if width > 500 else 5)
    ]
    axis = tag("line", class_="axis", x1=left, x2=width - right, y1=base, y2=base)
    told = tag(
        "text", "weight, in units of its own scale", x=width / 2, y=height - 4, class_="tick", text_anchor="middle"
    )
    about = f"{sum(counts):,} weights in {len(counts)} bins, {len(grid)} values of the format drawn as vertical lines."
    return picture(*bars, *lines, axis, *labels, told, width=width, height=height, name=name, about=about)


def number(value: float) -> str:
    """A tick: no needless digits, a real minus sign."""
    return f"{value:g}".replace("-", "−")


def heat_levels(values: Sequence[float], median: float) -> list[int]:
    """The level of each value, 0 to len(HEAT), by how many medians it is; not-a-number is the highest."""
    if not median:
        return [len(HEAT) if v else 0 for v in values]
    return [len(HEAT) if math.isnan(v) else sum(v / median >= edge for edge in HEAT) for v in values]


def heat_strip(values: Sequence[float], median: float) -> Markup:
    """One row of a heat map: a cell a value, stretched by the page to the width it has; the numbers stand beside it."""
    cells: dict[int, list[str]] = {}
    for i, level in enumerate(heat_levels(values, median)):
        cells.setdefault(level, []).append(f"M{i} 0h1v1h-1z")
    paths = [tag("path", class_=f"h{level}", d="".join(found)) for level, found in sorted(cells.items())]
    return tag(
        "svg",
        *paths,
        viewBox=f"0 0 {max(len(values), 1)} 1",
        preserveAspectRatio="none",
        class_="heat",
        aria_hidden="true",
        shape_rendering="crispEdges",
    )


def glyph(result: str, label: str = "", *, x: float = 0.0, y: float = 0.0, size: float = 9.0) -> list[Markup]:
    """The mark of a verdict: PASS a disc, UNSURE a diamond, FAIL a square, float a ring; with a short label inside."""
    look = {"class_": f"mark {result.lower() or 'float'}"}
    if result == "FAIL":
        side = size * 0.9
        shape = tag("rect", x=x - side, y=y - side, width=2 * side, height=2 * side, rx=1.5, **look)
    elif result == "UNSURE":
        d = size * 1.4
        shape = tag("path", d=f"M{x:.1f} {y - d:.1f}l{d:.1f} {d:.1f}l{-d:.1f} {d:.1f}l{-d:.1f} {-d:.1f}z", **look)
    else:
        shape = tag("circle", cx=x, cy=y, r=size, **look)
    text = tag(
        "text", label, x=x, y=y + 3.6, text_anchor="middle", class_=f"in-mark d{len(label)} {result.lower() or 'float'}"
    )
    return [shape, text] if label else [shape]


def badge(result: str, label: str = "") -> Markup:
    """The mark alone, as it stands in the table and the legend."""
    look = {"viewBox": "0 0 26 26", "width": 26, "height": 26, "class_": "badge-mark", "aria_hidden": "true"}
    return tag("svg", *glyph(result, label, x=13.0, y=13.0), **look)
