"""range_of and choose_scale (specs/30-scales.md)."""

import itertools

import exact_affine
import numpy as np
import pytest
import strategies as some
from bits import assert_same, bits_of, float32

import refquant
from refquant.formats import ALL, CodebookFormat, Format, IntFormat
from refquant.granularity import PerAxis, PerGroup
from refquant.spec import ScaleRule, check_scale_rule

LAYOUTS = [pytest.param(s, g, id=f"{s}-{g}".replace(" ", "")) for s, g in some.LAYOUTS]


def every_rule(fmt: Format) -> list[ScaleRule]:
    """All scale rules that have a meaning for the format."""
    rules = []
    zeros, denominators = ("none", "int", "float"), ("qmax", "half_range", "pow2", "signed_absmax")
    storages = ("float32", "float16", "bfloat16", "e4m3fn", "e8m0fnu", "pow2")
    for point in itertools.product(zeros, denominators, storages):
        try:
            rule = ScaleRule(*point)
            check_scale_rule("test", fmt, rule)
        except ValueError:
            continue
        rules.append(rule)
    return rules


def ranges() -> tuple[np.ndarray, np.ndarray]:
    """Pairs low <= 0 <= high: zero, tiny, huge, powers of two ±1 ulp, one-sided, and what ties a storage's rounding."""
    some_sizes = [0, 1e-45, 1e-40, 1e-30, 0.1, 1 / 3, 6, 127, 127.5, 448, 1e5, 1e30, 3.4028235e38]
    sizes = np.concatenate([
        np.float32(some_sizes),
        some.neighbours(np.float32([2.0**-24, 1.0, 2.0**111]), 1),
        (some.neighbours(np.float32([1 + 2.0**-11, 1 + 2.0**-8, 1.0625]), 1) * np.float32(127)),
    ])  # fmt: skip
    pairs = [(a, b) for a in sizes for b in (0.0, a / 2, a, 1.0)]
    low, high = (np.array(v, np.float32) for v in zip(*pairs, strict=True))
    return np.where(low > 0, -low, np.float32(0)), np.abs(high)


def check_choose(scales: object, fmt: Format, rule: ScaleRule, thin: slice = slice(None)) -> None:
    low, high = (v[thin] for v in ranges())
    want = [
        exact_affine.choose_scale(int(a), int(b), fmt=fmt, rule=rule)
        for a, b in zip(bits_of(low), bits_of(high), strict=True)
    ]
    scale, zero_point = scales.choose_scale(low, high, fmt=fmt, rule=rule)
    call = f"choose_scale(low, high, fmt=ALL[{fmt.name!r}], rule={rule!r})"
    inputs = {"low": low, "high": high}
    assert_same(np.asarray(scale), float32([w[0] for w in want]), inputs=inputs, call=call)
    if rule.zero == "none":
        assert zero_point is None
        return
    zeros = [w[1] for w in want]
    zeros = float32(zeros) if rule.zero == "float" else np.array(zeros, np.int32)
    assert_same(np.asarray(zero_point), zeros, inputs=inputs, call=call)


@pytest.mark.parametrize("fmt", [pytest.param(f, id=f.name) for f in ALL.values()])
def test_choose_scale_differential_every_rule(fmt):
    """SCL-2..SCL-8 in the reference: every format, denominator, zero and storage."""
    from refquant import scales

    for number, rule in enumerate(every_rule(fmt)):
        check_choose(scales, fmt, rule, slice(number % 4, None, 4))


@pytest.mark.parametrize("name", ["int8", "uint4", "e4m3fn", "nf4", "bfloat16"])
def test_choose_scale_differential(backend, name):
    """SCL-2..SCL-8 in both packages."""
    for rule in every_rule(ALL[name]):
        check_choose(backend.scales, ALL[name], rule)


@pytest.mark.parametrize(("name", "emax"), [("e2m1fn", 2), ("e2m3fn", 2), ("e3m2fn", 4), ("e4m3fn", 8), ("e5m2", 15)])
def test_powers_of_two_golden_are_not_those_of_ocp(backend, name, emax):
    """Forks in the wild: OCP MX 1.0, section 6.3, has half the scale wherever its largest element would saturate."""
    fmt = ALL[name]
    high = np.float32([3.9, *np.linspace(1, 2, 65)])
    scale, _ = backend.scales.choose_scale(-high, high, fmt=fmt, rule=ScaleRule(storage="e8m0fnu"))
    ocp = np.exp2(np.floor(np.log2(high)) - emax)
    saturates = high > fmt.max_value * ocp
    assert saturates.any() and not saturates.all()
    np.testing.assert_array_equal(np.asarray(scale), np.where(saturates, 2 * ocp, ocp))
    if name == "e2m1fn":
        assert (float(scale[0]), float(ocp[0])) == (1, 0.5)


def tile_ranges(x: np.ndarray, granularity: object) -> tuple[np.ndarray, np.ndarray]:
    """SCL-1, tile by tile, by the third opinion."""
    shape = granularity.scale_shape(x.shape)
    tiles = {at: [] for at in np.ndindex(shape)}
    size = granularity.tile(x.shape)
    for at in np.ndindex(x.shape):
        tiles[tuple(i // t for i, t in zip(at, size, strict=True)) if shape else ()].append(int(bits_of(x)[at]))
    pairs = [exact_affine.range_of(t) for t in tiles.values()]
    return tuple(float32([p[i] for p in pairs]).reshape(shape) for i in (0, 1))


def check_range(scales: object, shape: tuple, granularity: object) -> None:
    x, _ = some.layout_arrays(shape, granularity, ALL["int8"], 5)
    low, high = scales.range_of(x, granularity=granularity)
    want = tile_ranges(x, granularity)
    assert_same(np.asarray(low), want[0], call=f"range_of {shape} {granularity}")
    assert_same(np.asarray(high), want[1], call=f"range_of {shape} {granularity}")


@pytest.mark.parametrize(("shape", "granularity"), LAYOUTS)
def test_range_of_differential(backend, shape, granularity):
    """SCL-1, GRA-1, GRA-2: NaN, infinities, subnormals, ragged and empty tiles."""
    check_range(backend.scales, shape, granularity)


def test_range_of_golden(backend):
    """SCL-1: subnormals count, NaN does not, ±inf is ±FLT_MAX, zeros are +0."""
    tiny = np.uint32(1).view(np.float32)
    x = np.float32([[tiny, -tiny, np.nan], [np.nan] * 3, [np.inf, -np.inf, 0], [-0.0, -0.0, -0.0], [1, 2, 3]])
    low, high = backend.scales.range_of(x, granularity=PerAxis(0))
    top = np.finfo(np.float32).max
    assert_same(low[:, 0], np.float32([-tiny, 0, -top, 0, 0]))
    assert_same(high[:, 0], np.float32([tiny, 0, top, 0, 3]))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_range_of_differential_half(backend, dtype):
    """SCL-1 and GEN-1: of widened values."""
    pytest.importorskip("ml_dtypes")
    x = np.arange(65536, dtype=np.uint16).view(np.dtype(dtype)).reshape(256, 256)
    got = backend.scales.range_of(x, granularity=PerAxis(0))
    want = backend.scales.range_of(x.astype(np.float32), granularity=PerAxis(0))
    for a, b in zip(got, want, strict=True):
        assert_same(a, b)


@pytest.mark.parametrize(("shape", "granularity"), LAYOUTS)
def test_range_of_differential_row_after_row(monkeypatch, shape, granularity):
    """SCL-1: the loop that large arrays have on CPUs, here with small ones; batched too."""
    jax, scales = pytest.importorskip("jax"), pytest.importorskip("jaxquant.scales")
    monkeypatch.setattr(scales, "LARGE", 0)
    monkeypatch.setattr(scales, "COLUMNS", 0)
    x, _ = some.layout_arrays(shape, granularity, ALL["int8"], 5)

    def keys(x):
        return scales._range_keys(x, granularity.tile(shape), granularity.scale_shape(shape))

    want = [scales.bits.ordered_key(v) for v in tile_ranges(x, granularity)]
    batched = jax.jit(jax.vmap(keys))(np.stack([x, -x, x]))
    for got, both, expected in zip(jax.jit(keys)(x), batched, want, strict=True):
        assert_same(np.asarray(got), np.asarray(expected))
        assert_same(np.asarray(both[2]), np.asarray(expected))


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("granularity", [PerAxis(2), PerAxis((0, 2)), PerGroup(0, 5)], ids=str)
def test_range_of_differential_large(dtype, granularity):
    """SCL-1: as many elements as the loop over rows is for; every pattern, NaN and infinities among them."""
    jax, scales = pytest.importorskip("jax"), pytest.importorskip("jaxquant.scales")
    random = np.random.Generator(np.random.PCG64(9))
    width = "uint32" if dtype == "float32" else "uint16"
    x = random.integers(0, 2 ** (8 * np.dtype(width).itemsize), (64, 128, 160), dtype=width)
    if dtype == "float32":
        x[:, :100] &= 0x3FFFFFFF  # not every range is full
    x = x.view(jax.numpy.dtype(dtype))
    assert x.size >= scales.LARGE
    assert (
        "while"
        in scales._range_of.lower(x, tile=granularity.tile(x.shape), shape=granularity.scale_shape(x.shape)).as_text()
    )
    want = refquant.scales.range_of(x, granularity=granularity)
    for a, b in zip(scales.range_of(x, granularity=granularity), want, strict=True):
        assert_same(np.asarray(a), b)


@pytest.mark.parametrize("name", ["int8", "uint8", "e4m3fn", "nf4"])
def test_choose_scale_property_nothing_clips(backend, name):
    """SCL-3, SCL-7: with a binary32 scale the ends of the range are inside (within one rounding)."""
    fmt = ALL[name]
    rule = ScaleRule("none" if not isinstance(fmt, IntFormat) or fmt.signed else "int")
    scale, _ = backend.scales.choose_scale(np.float32([-3.7]), np.float32([2.9]), fmt=fmt, rule=rule)
    reach = scale.astype(np.float64)[0] * (fmt.qmax - fmt.qmin if rule.zero == "int" else some.values_of(fmt)[-1])
    assert reach >= (6.6 if rule.zero == "int" else 3.7) * (1 - 2**-22)


def test_choose_scale_golden_of_the_smallest_format(backend):
    """SCL-3: a largest value of 2**-26 is the smallest there may be (tests/test_errors.py has the one below it)."""
    least = CodebookFormat("least", 1, (-(2.0**-26), 2.0**-26), "trial")
    scale, _ = backend.scales.choose_scale(np.float32(-1), np.float32(1), fmt=least)
    assert_same(scale, np.float32(2**26))
