"""Pictures as PNG, drawn with matplotlib off screen and written whole or not at all."""

from pathlib import Path
from typing import Any

from refquant.files import atomic_path
from refquant.files.printable import printable


def draw_grid(drawn: dict[str, Any], path: Path) -> None:
    """The histogram of `grids.against_grid` with every grid point as a line."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 4), dpi=140, layout="constrained")
    edges, counts = drawn["edges"], drawn["counts"]
    widths = [b - a for a, b in zip(edges, edges[1:], strict=False)]
    axes.bar(edges[:-1], counts, width=widths, align="edge", color="#4c78a8", label="values")
    for k, point in enumerate(drawn["grid"]):
        axes.axvline(point, color="#e45756", linewidth=0.8, alpha=0.8, label="grid" if k == 0 else None)
    axes.set_yscale("symlog", linthresh=10)
    axes.set_xlabel("value / scale")
    axes.set_ylabel("elements")
    title = f"{printable(drawn['name'])} under {drawn['scheme']}; {100 * drawn['clipped']:.2f} % clipped"
    axes.set_title(title, fontsize=10, parse_math=False)  # a name may hold dollar signs
    figure.legend(frameon=False, loc="outside lower right", ncols=2)  # bars and lines may fill the axes to its corners
    with atomic_path(path, way="") as temporary:
        figure.savefig(temporary, format="png")
    pyplot.close(figure)
