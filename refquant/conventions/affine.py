"""How a code is computed from x, a scale and a zero point.  DATA: the space (specs/25-conventions.md, CNV-1)."""

from dataclasses import dataclass
from typing import Literal

from refquant.options import check_options, told

Ties = Literal["even", "away", "up", "down", "trunc"]


@dataclass(frozen=True)
class Affine:
    """One semantics of code = round(x / scale) + zero_point (CNV-1).

    Attributes:
      op: "div" divides by the scale, "inv" multiplies by its binary32 reciprocal, "given" multiplies by the
        argument itself (the caller stores the reciprocal).
      prec: the precision of that step; its result is rounded once to it.
      zero: "int" adds the zero point after rounding, as an integer; "add" adds it before rounding with a rounding
        of its own; "fma" adds it before rounding in one fused step; "bias" subtracts a real offset from x first.
      ties: how a value midway between two integers rounds ("up" toward +inf, "down" toward -inf; "trunc" drops the
        fraction, of any value).
      overflow: "sat" clamps before any cast; "i32"/"i64" cast first, out of range gives the smallest integer;
        "wrap32" does so for NaN too and adds the zero point with wrapping; "magic" rounds by adding 1.5 * 2**23 in
        binary32 and reads the low bits.
      nan: the code of NaN: qmin, qmax, or the zero point ("wrap32" has one of its own).

    Raises:
      ValueError: a field is none of its options.
    """

    op: Literal["div", "inv", "given"] = "div"
    prec: Literal["f32", "f64", "f16"] = "f32"
    zero: Literal["int", "add", "fma", "bias"] = "int"
    ties: Ties = "even"
    overflow: Literal["sat", "i32", "i64", "wrap32", "magic"] = "sat"
    nan: Literal["qmin", "qmax", "zero"] = "qmin"

    def __post_init__(self) -> None:
        check_options(self, "CNV-1")

    def __str__(self) -> str:
        return " ".join((self.op, self.prec, self.zero, self.ties, self.overflow, self.nan))


DEFAULT = Affine()


@dataclass(frozen=True)
class Lanes:
    """A convention that depends on the element's position in the flat array (CNV-6).

    A vectorized kernel computes blocks of `n` elements one way and the last `size % n` elements another way.

    Attributes:
      n: elements in one block.
      body: the convention of the whole blocks.
      tail: the convention of what is left over.

    Raises:
      TypeError: n is no int, or body or tail no Affine.
      ValueError: n is below 1.
    """

    n: int
    body: Affine
    tail: Affine

    def __post_init__(self) -> None:
        if type(self.n) is not int:
            raise TypeError(f"Lanes: n is {told(self.n)}, need an int from 1 up (elements in one block, CNV-6)")
        if self.n < 1:
            raise ValueError(f"Lanes: n is {self.n}, need an int from 1 up (elements in one block, CNV-6)")
        for name in ("body", "tail"):
            if not isinstance(getattr(self, name), Affine):
                need = "an Affine such as conventions.DEFAULT"
                raise TypeError(f"Lanes: {name} is {told(getattr(self, name))}, need {need} (CNV-6)")

    def body_size(self, size: int) -> int:
        """How many leading elements of a flat array of `size` elements follow `body`."""
        return size - size % self.n

    def at(self, index: int, size: int) -> Affine:
        """The convention of element `index` of a flat array of `size` elements."""
        return self.body if index < self.body_size(size) else self.tail


@dataclass(frozen=True)
class Convention:
    """What one runtime's operation does, with where that is known from.

    Attributes:
      name: the name in `PRESETS`.
      affine: the point of the space, or `Lanes` where the position decides.
      source: "measured" (run, 0 mismatches on the probes), or "read, not run: " and the document that states it.
      version: of the runtime that was run or of the document.
      note: what else a caller must know.
    """

    name: str
    affine: Affine | Lanes
    source: str
    version: str
    note: str = ""
