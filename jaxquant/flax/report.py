"""The coverage report: what each layer got, and why; what stayed in float, and why."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

HEADER = ("path", "kind", "weights", "inputs", "why")


@dataclass(frozen=True)
class Row:
    """One module.

    Attributes:
      path: its place in the model, parts joined by "/"; "" is the model itself.
      kind: the name of its class, or the product of an attention ("QKᵀ", "PV").
      weights: what its kernel became; "" where it stayed in float.
      inputs: what its inputs become; "float" beside quantized weights, "ids" of a table that is only looked up, ""
        where the layer stayed in float.
      why: the rule, and the size of the last group where it is shorter; or the reason why it stayed in float.
    """

    path: str
    kind: str
    weights: str
    inputs: str
    why: str

    @property
    def quantized(self) -> bool:
        """Whether anything in the module is quantized."""
        return bool(self.weights or self.inputs)

    @property
    def waits(self) -> bool:
        """Whether the inputs' scale is a constant that calibration sets."""
        return self.inputs not in ("", "float", "ids") and " dynamic" not in self.inputs


@dataclass(frozen=True)
class Report:
    """A row for every module with parameters, and for every product of attention; `str` is a table.

    Attributes:
      rows: by path.
      added: how many parameters `prepare` has put beside the kernels: learned scales and offsets with their marks; in
        Linen, whose tree of parameters holds all state, also static scales and steps.  An optimizer made before does
        not know them.
      start: the first step that quantizes, by the recipe's schedule.
    """

    rows: tuple[Row, ...]
    added: int = 0
    start: int = 0

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, path: str) -> Row:
        """The first row of that path.

        Raises:
          KeyError: there is none.
        """
        for row in self.rows:
            if row.path == path:
                return row
        raise KeyError(f"{path!r} is not in the report, need one of {', '.join(repr(row.path) for row in self.rows)}")

    @property
    def left_in_float(self) -> tuple[Row, ...]:
        """The rows of what was left alone."""
        return tuple(row for row in self.rows if not row.quantized)

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON would have it."""
        return {"rows": [asdict(row) for row in self.rows]}

    def __str__(self) -> str:
        lines = table([HEADER, *[(r.path or ".", r.kind, r.weights or "float", r.inputs, r.why) for r in self.rows]])
        count = sum(row.waits for row in self.rows)
        waiting = f"\n{count} static input scales: NaN until observe and calibrate have set them"
        later = f"\nparameters added beside the kernels: {self.added}; make the optimizer after prepare"
        until = f"\nthe layers run in float until step {self.start}; call advance after each step"
        return lines + (waiting if count else "") + (later if self.added else "") + (until if self.start else "")


def table(lines: list[tuple[str, ...]]) -> str:
    """Text in columns, the first line as their heads."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    texts = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join([texts[0], "  ".join("-" * width for width in widths), *texts[1:]])
