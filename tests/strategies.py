"""Inputs that see what random ones do not: boundaries ±2 ulp, subnormals, zeros, infinities, NaNs, powers of two."""

from __future__ import annotations

import functools
import itertools

import numpy as np
from hypothesis import strategies as st

from refquant.conventions import Affine, Cast
from refquant.formats import ALL, CodebookFormat, FloatFormat, Format, IntFormat
from refquant.granularity import Granularity, PerAxis, PerBlock, PerGroup, PerTensor, PerToken

INTS = [f for f in ALL.values() if isinstance(f, IntFormat)]
FLOATS = [f for f in ALL.values() if isinstance(f, FloatFormat)]
CODEBOOKS = [f for f in ALL.values() if isinstance(f, CodebookFormat)]
SMALL = [f for f in ALL.values() if f.bits <= 8]

SPECIAL = np.array(
    [
        0x00000000, 0x80000000, 0x7F800000, 0xFF800000, 0x7FC00000, 0xFFC00000, 0x7F800001, 0xFFFFFFFF,
        0x00000001, 0x80000001, 0x00000002, 0x007FFFFF, 0x807FFFFF, 0x00800000, 0x80800000, 0x00800001,
        0x00400000, 0x80400000, 0x7F7FFFFF, 0xFF7FFFFF, 0x7F7FFFFE, 0x3F000000, 0xBF000000, 0x3EFFFFFF,
        0x3F000001, 0x3F800000, 0xBF800000, 0x4B400000, 0x4B3FFFFF, 0x4A800000, 0x4F000000, 0xCF000000,
        0x4EFFFFFF, 0x4F000001, 0xCF000001, 0x5F000000, 0xDF000000, 0x5EFFFFFF, 0x33800000, 0x34000000,
    ],
    np.uint32,
).view(np.float32)  # fmt: skip


def from_keys(keys: np.ndarray) -> np.ndarray:
    """Binary32 values of ordered keys (BIT-1), clamped to ±inf."""
    keys = np.clip(np.asarray(keys, np.int64), -0x7F800000, 0x7F800000)
    return np.where(keys < 0, np.abs(keys) | 0x80000000, keys).astype(np.uint32).view(np.float32)


def keys_of(values: np.ndarray) -> np.ndarray:
    bits = np.asarray(values, np.float32).view(np.uint32).astype(np.int64)
    return np.where(bits >> 31, -(bits & 0x7FFFFFFF), bits)


def neighbours(values: np.ndarray, distance: int = 2) -> np.ndarray:
    """Every value with its neighbours up to `distance` ulp."""
    keys = keys_of(values).reshape(-1, 1) + np.arange(-distance, distance + 1)
    return from_keys(keys).reshape(-1)


@np.errstate(all="ignore")
def halves(scale: float, low: int, high: int, distance: int = 2) -> np.ndarray:
    """Within `distance` ulp of k*scale and (k + 1/2)*scale, k in low..high."""
    steps = np.arange(2 * low, 2 * high + 1) / 2
    return neighbours((steps * np.float64(scale)).astype(np.float32), distance)


def powers() -> np.ndarray:
    """All powers of two of binary32, ±1 ulp, both signs."""
    bits = np.concatenate([np.arange(1, 255, dtype=np.uint32) << 23, np.uint32(1) << np.arange(23, dtype=np.uint32)])
    near = neighbours(bits.view(np.float32), 1)
    return np.concatenate([near, -near])


def random_bits(count: int, seed: int = 0) -> np.ndarray:
    """Uniform patterns: every exponent alike, NaNs and subnormals included."""
    return np.random.default_rng(seed).integers(0, 1 << 32, count, np.uint32).view(np.float32)


@functools.cache
def values_of(fmt: Format) -> np.ndarray:
    """All finite values of a format, ascending, in float64."""
    if isinstance(fmt, IntFormat):
        return np.arange(fmt.qmin, fmt.qmax + 1, dtype=np.float64)
    if isinstance(fmt, CodebookFormat):
        return np.unique(np.array(fmt.values, np.float64))
    code = np.arange(fmt.max_code + 1)
    exponent, mantissa = code >> fmt.mantissa_bits, code & ((1 << fmt.mantissa_bits) - 1)
    hidden = np.where((exponent > 0) | (not fmt.zero), 1.0, 0.0)
    power = (np.maximum(exponent, 1) if fmt.zero else exponent) - fmt.bias
    size = np.ldexp(hidden + mantissa / 2**fmt.mantissa_bits, power)
    return np.unique(np.concatenate([-size, size])) if fmt.signed else size


def midpoints(fmt: Format, distance: int = 2) -> np.ndarray:
    """Within `distance` ulp of every value of a format, every midpoint, and what lies just above the largest."""
    values = values_of(fmt)
    step = values[-1] - values[-2]
    ends = np.array([values[0] - step / 2, values[0] - step, values[-1] + step / 2, values[-1] + step])
    points = np.concatenate([values, (values[1:] + values[:-1]) / 2, ends])
    with np.errstate(over="ignore"):
        return neighbours(points.astype(np.float32), distance)


SCALES = np.array(
    [1.0, 0.5, 2.0**-7, 2.0**-60, 2.0**-100, 2.0**60, 1 / 3, 0.1, 0.7, 1 / 127, 1 / 255, 0.0123, 3.0, 1e10, 1.7e-20],
    np.float32,
)
ODD_SCALES = np.array([0.0, -0.0, -0.3, np.inf, -np.inf, np.nan, 1e-40, 2.0**-126], np.float32)


def near(scale: float, fmt: Format, seed: int = 0, count: int = 512) -> np.ndarray:
    """The standard mixture for one scale: boundaries of the format times the scale, specials, powers, random bits."""
    with np.errstate(all="ignore"):
        if isinstance(fmt, IntFormat):
            reach = min(fmt.max_magnitude, 260) + 3  # both signs, also of unsigned formats: zero points shift the range
            ends = [halves(scale, end - 3, end + 3) for end in (fmt.qmin, fmt.qmax)]
            edges = np.concatenate([halves(scale, -reach, reach), *ends])
        else:
            points = midpoints(fmt, 0).astype(np.float64)
            points = points if points.size < 4000 else points[:: points.size // 2000]
            edges = neighbours((points * np.float64(scale)).astype(np.float32))
    return np.concatenate([SPECIAL, edges, powers()[::7], random_bits(count, seed)])


def thin(values: np.ndarray, count: int, seed: int = 0) -> np.ndarray:
    """At most `count` elements: all specials, the rest drawn without replacement."""
    if values.size <= count:
        return values
    rest = np.random.default_rng(seed).choice(values.size, count, replace=False)
    return np.concatenate([SPECIAL, values[np.sort(rest)]])


FIELDS = {
    "op": ("div", "inv", "given"),
    "prec": ("f32", "f64", "f16"),
    "zero": ("int", "add", "fma", "bias"),
    "ties": ("even", "away", "up", "down", "trunc"),
    "overflow": ("sat", "i32", "i64", "wrap32", "magic"),
    "nan": ("qmin", "qmax", "zero"),
}
CAST_FIELDS = {
    "overflow": ("saturate", "finite", "special"),
    "ties": (None, "even", "away", "zero", "up", "down"),
    "nan": ("canonical", "signed", "zero", "max"),
    "zero": ("keep", "positive"),
}


def every_convention() -> list[Affine]:
    """All points of the enumeration."""
    return [Affine(*point) for point in itertools.product(*FIELDS.values())]


def every_cast() -> list[Cast]:
    return [Cast(*point) for point in itertools.product(*CAST_FIELDS.values())]


def pairwise(fields: dict[str, tuple]) -> list[tuple]:
    """Few points that hold every pair of values of every two fields (greedy, deterministic)."""
    pairs = {((a, u), (b, v)) for a, b in itertools.combinations(fields, 2) for u in fields[a] for v in fields[b]}
    points = list(itertools.product(*fields.values()))
    chosen = []
    while pairs:
        best = max(points, key=lambda p: len(_pairs(fields, p) & pairs))
        chosen.append(best)
        pairs -= _pairs(fields, best)
    return chosen


def _pairs(fields: dict[str, tuple], point: tuple) -> set:
    return set(itertools.combinations(zip(fields, point, strict=True), 2))


CONVENTIONS = [Affine(*p) for p in pairwise(FIELDS)]
CASTS = [Cast(*p) for p in pairwise(CAST_FIELDS)]

#: (shape, granularity): ragged, whole, empty, 0-d, negative axes, two axes.
LAYOUTS: list[tuple[tuple[int, ...], Granularity]] = [
    ((), PerTensor()),
    ((0,), PerTensor()),
    ((7,), PerTensor()),
    ((7,), PerAxis(0)),
    ((7,), PerGroup(0, 3)),
    ((5, 6), PerTensor()),
    ((5, 6), PerAxis(0)),
    ((5, 6), PerAxis(-1)),
    ((5, 6), PerAxis((0, 1))),
    ((5, 6), PerToken()),
    ((5, 6), PerGroup(1, 4)),
    ((5, 6), PerGroup(0, 2)),
    ((5, 6), PerGroup(-1, 100)),
    ((5, 6), PerBlock((2, 4))),
    ((5, 6), PerBlock((5, 3))),
    ((0, 6), PerAxis(1)),
    ((4, 0), PerGroup(1, 2)),
    ((1, 5), PerGroup(0, 3)),
    ((1, 6), PerBlock((3, 4))),
    ((2, 3, 5), PerBlock((2, 2))),
    ((2, 3, 5), PerAxis((0, 2))),
    ((2, 3, 5), PerGroup(2, 2)),
]


def layout_arrays(shape: tuple, granularity: Granularity, fmt: Format, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """x with near-boundary elements of its own tile's scale, and those scales."""
    rng = np.random.default_rng(seed)
    scale = rng.choice(SCALES[(SCALES > 1e-9) & (SCALES < 1e9)], granularity.scale_shape(shape)).astype(np.float32)
    each = spread(scale, shape, granularity)
    top = min(values_of(fmt)[-1], 70000.0) + 2
    steps = np.round(rng.uniform(-top, top, shape) * 2) / 2
    x = from_keys(keys_of((steps * each).astype(np.float32)) + rng.integers(-2, 3, shape))
    special = rng.random(shape) < 0.2
    return np.where(special, rng.choice(SPECIAL, shape), x).astype(np.float32), scale


def spread(scale: np.ndarray, shape: tuple, granularity: Granularity) -> np.ndarray:
    """GRA-3: the scale of each element's tile."""
    if isinstance(granularity, PerTensor):
        return np.broadcast_to(scale, shape)
    index = np.indices(shape)
    return scale[tuple(i // t for i, t in zip(index, granularity.tile(shape), strict=True))]


def floats32(max_size: int = 40) -> st.SearchStrategy[np.ndarray]:
    """Lists of binary32 values: specials, near halves of 1/3, near integers, any bits."""
    pool = np.concatenate([SPECIAL, halves(1 / 3, -9, 9), halves(1.0, -9, 9)])
    element = st.one_of(st.sampled_from(pool.view(np.uint32).tolist()), st.integers(0, (1 << 32) - 1))
    return st.lists(element, max_size=max_size).map(lambda bits: np.array(bits, np.uint32).view(np.float32))


def scales() -> st.SearchStrategy[np.float32]:
    """Scales of the exact domain (GEN-8)."""
    some = st.sampled_from(SCALES.tolist())
    any_normal = st.integers(0x0D800000, 0x5D800000).map(lambda b: float(np.uint32(b).view(np.float32)))
    return st.one_of(some, any_normal).map(np.float32)


def some_format(kinds: list[Format] | None = None) -> st.SearchStrategy[Format]:
    return st.sampled_from(kinds or list(ALL.values()))
