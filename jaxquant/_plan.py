"""What decides an affine operation besides its arrays, as one hashable value: the static argument of every jit."""

from dataclasses import dataclass

from refquant.conventions import CAST, DEFAULT, Affine, Cast
from refquant.formats import Format
from refquant.granularity import Shape


@dataclass(frozen=True)
class Plan:
    """One value a compilation.

    Attributes:
      fmt: the format of the codes.
      tile: the block of elements that shares a scale, so PerAxis(1) and PerAxis(-1) are one plan.
      convention: how codes are computed.
      cast: how float formats and codebooks are encoded.
      mask: which elements let a gradient pass.
      own: whether the scale covers every finite element that it belongs to (`_own_range.covers`).
      dtype: of a real result.
    """

    fmt: Format
    tile: Shape
    convention: Affine = DEFAULT
    cast: Cast = CAST
    mask: str = "rounded"
    own: bool = False
    dtype: str = "float32"
