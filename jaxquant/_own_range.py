"""What a scale that x's own range made tells of the clip-STE mask, without a look at each quotient."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxquant import blocks
from refquant.conventions import DEFAULT, Affine
from refquant.formats import Format, IntFormat
from refquant.granularity import Granularity
from refquant.spec import ScaleRule, scale_limits

FLT_MAX = np.finfo(np.float32).max


def covers(rule: ScaleRule, fmt: Format) -> bool:
    """Whether a scale from the range of x is never below max |x| / qmax by more than its rounding, nor -qmax a code."""
    exact = rule.storage in ("float32", "pow2", "e8m0fnu")
    mirrored = not isinstance(fmt, IntFormat) or fmt.qmin <= -fmt.qmax
    return exact and mirrored and rule.zero == "none" and rule.denominator == "qmax"


def bounds(fmt: IntFormat) -> tuple[np.float32, np.float32]:
    """The numbers between which a scale of x's own range rounds x into the format, the same for every tile.

    Only a scale that was limited (SCL-5) is too small for its range; the limit is a power of two, so the quotient by it
    is exact and its ends are known.  Below the limit all that is finite lies between them: it is at most limit * qmax.
    """
    limit = scale_limits(fmt)[1]
    ends = []
    for end, half in ((fmt.qmin, fmt.qmin - 0.5), (fmt.qmax, fmt.qmax + 0.5)):
        last = np.float32(half * limit)
        last = last if round(half) == end else np.nextafter(last, np.float32(0))
        ends.append(np.clip(last, -FLT_MAX, FLT_MAX, dtype=np.float32))
    return ends[0], ends[1]


def told_by_codes(rule: ScaleRule, fmt: Format, convention: Affine, mask: str) -> bool:
    """Whether codes tell what is inside: NaN alone has the code qmin, which no number of the range reaches."""
    spare = isinstance(fmt, IntFormat) and fmt.qmin < -fmt.qmax
    return spare and covers(rule, fmt) and convention == DEFAULT and mask == "rounded"


def judge(codes: jax.Array, scale: jax.Array, *, fmt: IntFormat, granularity: Granularity) -> jax.Array:
    """`affine.judge` where `told_by_codes` (LAY-13); of the largest scale (SCL-5), a code at either end is outside.

    Args:
      codes: of dtype `fmt.storage`, any shape.
      scale: float32, of the range of what the codes stand for.
      fmt: the format of the codes.
      granularity: which elements share a scale.
    Returns:
      int8, shape of codes: -1 inside, 0 outside.
    """
    largest = scale >= np.float32(scale_limits(fmt)[1])
    last = jnp.where(largest, codes.dtype.type(fmt.qmax - 1), codes.dtype.type(fmt.qmax))
    last = blocks.spread(last, codes.shape, granularity.tile(codes.shape))
    return -((codes > fmt.qmin) & (codes <= last)).astype(jnp.int8)
