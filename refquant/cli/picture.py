"""A grid of values in the terminal: one line of marks, an axis, labels; linear, or linear-then-logarithmic."""

import math
from typing import Any

import numpy as np

from refquant.cli.numbers import power, short
from refquant.cli.screen import Screen

BARS, ASCII_BARS = "▁▂▃▄▅▆▇█", ".:-=+*%#"
LOG_FROM = 100.0  # a largest / smallest magnitude from here on needs a logarithmic axis to be seen


class Axis:
    """Columns for values: linear between two ends, or by log2(1 + x / unit) from zero."""

    def __init__(self, low: float, high: float, columns: int, unit: float | None = None):
        self.unit, self.columns = unit, columns
        self.low, self.high = self._bend(low), self._bend(high)

    def _bend(self, values: Any) -> Any:
        return values if self.unit is None else np.log2(1 + values / self.unit)

    def column(self, values: Any) -> Any:
        """The column of a number or of each of an array, 0..columns - 1."""
        part = (self._bend(values) - self.low) / ((self.high - self.low) or 1)
        return np.rint(part * (self.columns - 1)).astype(int)


def draw(values: np.ndarray, screen: Screen) -> None:
    """The distinct finite values, drawn linearly and, where they span decades, once more on a logarithmic axis."""
    grid = np.unique(values[np.isfinite(values)].astype(np.float64))
    positive = grid[grid > 0]
    columns = screen.width - 4
    wide = len(positive) > 2 and positive[-1] / positive[0] >= LOG_FROM and not _even(grid)
    if len(grid) and (not wide or grid[0] < 0 or grid[-1] / grid[0 if grid[0] else 1] < 1e9):
        _strip("linear", grid, Axis(grid[0], grid[-1], columns), (grid[0], 0.0, grid[-1]), screen)
    if wide:
        _strip_log(grid, positive, columns, screen)


def _even(grid: np.ndarray) -> bool:
    return bool(np.all(np.diff(grid) == grid[1] - grid[0]))


def _strip_log(grid: np.ndarray, positive: np.ndarray, columns: int, screen: Screen) -> None:
    """Positive values; around zero the axis is linear where zero is a value (symlog)."""
    low, high = float(positive[0]), float(positive[-1])
    symlog = bool(np.any(grid == 0))
    shown = np.concatenate([[0.0], positive]) if symlog else np.log2(positive)
    half = "positive half, " if grid[0] < 0 else ""
    title = f"{half}logarithmic" + (" (linear near 0)" if symlog else " (labels are powers of two)")
    if symlog:
        inner = [2.0**k for k in _steps(math.log2(low), math.log2(high))]
        _strip(title, shown, Axis(0.0, high, columns, low), (0.0, high, 1.0, *inner), screen)
    else:
        inner = _steps(float(shown[0]), float(shown[-1]))
        _strip(title, shown, Axis(shown[0], shown[-1], columns), (shown[0], shown[-1], *inner), screen)


def _steps(low: float, high: float) -> list[int]:
    """A handful of round exponents between two."""
    step = next(s for s in (1, 2, 4, 8, 16, 32, 64) if (high - low) / s <= 8)
    return [k for k in range(math.ceil(low), math.floor(high) + 1) if k % step == 0]


def _strip(title: str, values: np.ndarray, axis: Axis, wanted: tuple[float, ...], screen: Screen) -> None:
    counts = np.bincount(axis.column(values), minlength=axis.columns)
    marks, legend = _marks(counts, screen)
    labels, ticks = _labels(axis, wanted)
    line = "".join("┬" if k in ticks else "─" for k in range(axis.columns))
    screen.line(f"  {screen.paint(title, 'bold')}  {screen.paint(legend, 'dim')}")
    screen.line("  " + screen.paint(marks, "mark"))
    screen.line("  " + line)
    screen.line("  " + labels)


def _marks(counts: np.ndarray, screen: Screen) -> tuple[str, str]:
    """One glyph a column, taller where more values share it (a step for each doubling, or fewer)."""
    most = int(counts.max())
    if most == 1:
        return "".join("│" if count else " " for count in counts), f"{int(counts.sum())} values"
    bars = BARS if screen.unicode else ASCII_BARS
    step = min(1.0, (len(bars) - 1) / math.log2(most))
    level = np.rint(step * np.log2(np.maximum(counts, 1))).astype(int)
    marks = "".join(bars[k] if count else " " for k, count in zip(level, counts, strict=True))
    return marks, f"{int(counts.sum())} values; a column: {bars[0]} 1, {bars[level.max()]} {most}"


def _labels(axis: Axis, wanted: tuple[float, ...]) -> tuple[str, set[int]]:
    """As many of the wanted labels as fit side by side, the first ones first; and their columns."""
    cells, ticks = [" "] * axis.columns, set()
    for value in wanted:
        if value != wanted[0] and value in wanted[: wanted.index(value)]:
            continue
        text = short(np.float32(value))
        if value > 0 and (value < 1 or len(text) > 6):
            text = power(value) or text
        place = int(axis.column(np.float64(value)))
        start = min(max(place - len(text) // 2, 0), axis.columns - len(text))
        around = cells[max(start - 1, 0) : start + len(text) + 1]
        if any(cell != " " for cell in around) or not axis.low <= axis._bend(np.float64(value)) <= axis.high:
            continue
        cells[start : start + len(text)] = text
        ticks.add(place)
    return "".join(cells), ticks
