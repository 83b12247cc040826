"""A tensor against the grid it is rounded to, in units of its own scales.  NumPy diagnostics (class bounded)."""

from collections.abc import Iterable
from typing import Any

import numpy as np

import refquant
from refquant.formats import CodebookFormat, Format, IntFormat
from refquant.spec import QuantSpec

BINS = 96


def grid(fmt: Format) -> list[float]:
    """Every finite value of a format of at most 8 bits in units of its scale, ascending."""
    if isinstance(fmt, IntFormat):
        return [float(v) for v in range(fmt.qmin, fmt.qmax + 1)]
    if isinstance(fmt, CodebookFormat):
        return sorted(set(fmt.values))
    values = refquant.decode(np.arange(1 << fmt.bits, dtype=fmt.storage), fmt=fmt)
    return sorted({float(v) for v in values[np.isfinite(values)]})


def against_grid(pairs: Iterable[tuple[np.ndarray, Any]], spec: QuantSpec) -> dict[str, Any]:
    """Histogram of a tensor over its scales, with the grid.

    Args:
      pairs: runs of the tensor, each float32 with its QTensor, of either package; what is not finite is left out.
      spec: of the QTensors.
    Returns:
      dict with edges (BINS + 1), counts (BINS), grid (ascending, thinned to at most 64), clipped (share beyond the
      ends by more than half a step), where asymmetric counted from the zero point.
    """
    points = np.array(grid(spec.fmt))
    if spec.scale.zero != "none":
        points = points - points[0]
    low, high = points[0], points[-1]
    margin, half = 0.15 * max(abs(low), abs(high), 1e-30), (points[1] - points[0]) / 2
    ends = (low - margin, high + margin)
    counts, edges = np.histogram([], BINS, ends)
    outside = 0
    for x, q in pairs:
        ratio = in_scales(np.asarray(x, np.float64), q)[np.isfinite(x)]
        counts = counts + np.histogram(np.clip(ratio, *ends), BINS, ends)[0]
        outside += int(np.count_nonzero((ratio < low - half) | (ratio > high + half)))
    clipped = outside / max(int(counts.sum()), 1)
    shown = points if len(points) <= 64 else points[:: len(points) // 32]
    return {"edges": edges.tolist(), "counts": counts.tolist(), "grid": shown.tolist(), "clipped": clipped}


def in_scales(x: np.ndarray, q: Any) -> np.ndarray:
    """x over the scale of its tile; with zero points (x − lowest value) over the scale. Not finite counts as 0."""
    from refquant.blocks import expand, from_blocks, to_blocks

    grain = q.spec.granularity
    blocks = to_blocks(x, granularity=grain)
    scale = np.asarray(expand(np.asarray(q.scale), x.shape, granularity=grain), np.float64)
    ratio = blocks / scale
    if q.zero_point is not None:
        zero = np.asarray(expand(np.asarray(q.zero_point), x.shape, granularity=grain), np.float64)
        ratio = (blocks - zero) / scale if q.spec.scale.zero == "float" else ratio + zero - q.spec.fmt.qmin
    ratio = from_blocks(np.broadcast_to(ratio, blocks.shape), x.shape)
    return np.where(np.isfinite(ratio), ratio, 0.0)


def terminal_histogram(drawn: dict[str, Any], height: int = 8) -> str:
    """The histogram as text, 96 columns wide, with a mark under each bin that holds a grid point."""
    counts = np.sqrt(np.asarray(drawn["counts"], float))
    bars = counts / max(counts.max(initial=0), 1e-9) * height * 8
    blocks = " ▁▂▃▄▅▆▇█"
    lines = ["".join(blocks[int(np.clip(b - 8 * level, 0, 8))] for b in bars) for level in range(height - 1, -1, -1)]
    edges = drawn["edges"]
    places = np.clip(np.searchsorted(edges, drawn["grid"], side="right") - 1, 0, BINS - 1)
    marks = "".join("|" if i in set(places.tolist()) else " " for i in range(BINS))
    ends = f"{edges[0]:.3g}".ljust(BINS // 2) + f"{edges[-1]:.3g}".rjust(BINS // 2)
    note = f"bar heights are square roots of counts; {100 * drawn['clipped']:.2f} % clipped beyond half a step"
    return "\n".join(["  " + line for line in (*lines, marks, ends, note)])
