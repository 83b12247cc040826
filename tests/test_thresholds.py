"""thresholds, apply, distance, probes: the table is the function (specs/25-conventions.md)."""

from __future__ import annotations

import importlib.util

import exact
import exact_affine
import exact_requantize
import numpy as np
import pytest
from bits import assert_same
from strategies import SPECIAL, powers, random_bits

from refquant import thresholds as ref
from refquant.affine import quantize
from refquant.codec import encode
from refquant.conventions import CAST, DEFAULT, PRESETS, RESCALES, Affine, Cast, Rescale, StepFunction
from refquant.conventions.steps import differences, key_bits, probe_keys, seed_keys, total_key
from refquant.formats import ALL
from refquant.requantize import requantize

HAVE_JAX = importlib.util.find_spec("jax") is not None
AFFINE = [
    ("int8", DEFAULT, 0.1, 0),
    ("uint8", Affine("inv", zero="add", nan="qmax"), 0.0123, 7),
    ("uint8", Affine("inv", zero="fma"), 0.0123, 7),
    ("int8", Affine(ties="away", overflow="i32"), 3.0, 5),
    ("int8", Affine("inv", overflow="i64"), 2.0**-20, -128),
    ("int4", Affine("inv", overflow="magic"), 0.3, 1),
    ("int8", Affine(ties="away", overflow="wrap32"), 0.3, -37),
    ("int8", Affine(overflow="wrap32"), 0.7, 2**31 - 1),
    ("uint8", Affine(overflow="wrap32"), 1.0, -(2**31)),
    ("uint8", Affine("inv", overflow="wrap32"), 1.3, 2**30 + 5),
    ("uint4", Affine(zero="bias"), 0.29, -2.3),
    ("int2", Affine("given", ties="up"), 12.5, 0),
    ("int8", Affine(prec="f64", ties="away"), 0.1, 0),
    ("uint8", Affine(prec="f16"), 0.1, 3),
    ("int8", DEFAULT, -0.5, 2),
    ("int8", DEFAULT, 0.0, 3),
    ("int8", DEFAULT, float("inf"), 3),
    ("int8", DEFAULT, float("nan"), 3),
    ("e4m3fn", DEFAULT, 0.1, 0),
    ("nf4", DEFAULT, 0.7, 0),
]
CAST_POINTS = [
    ("e4m3fn", CAST), ("e5m2", Cast("special", nan="signed")), ("e4m3fnuz", Cast("finite")), ("e2m1fn", CAST),
    ("e8m0fnu", Cast("special")), ("e3m2fn", Cast(ties="away", zero="positive")), ("nf4", CAST), ("dynamic8", CAST),
    ("binary", CAST), ("int8", CAST),
]  # fmt: skip
RESCALE_POINTS = [
    ("int8", Rescale(), 0.0123, 3), ("int8", Rescale("f64", ties="away", overflow="i32"), 1.7, -7),
    ("uint8", Rescale("q31", "double", "away"), 0.0123, 128), ("int8", Rescale("q31", "double", "up"), 1.3, 0),
    ("int16", Rescale("q31", "single", "up"), 0.9, 0), ("int8", Rescale("q8", "single", "up"), 0.37, 1),
    ("int8", Rescale(), -0.25, 0),
]  # fmt: skip


def inputs() -> np.ndarray:
    return np.concatenate([SPECIAL, powers(), random_bits(20000, 5)])


def id_of(value: object) -> str:
    return str(value).replace(" ", "-") if isinstance(value, Affine | Rescale) else repr(value)


@pytest.mark.parametrize(("name", "point", "scale", "zero"), AFFINE, ids=id_of)
def test_thresholds_property_table_equals_quantize(name, point, scale, zero):
    """CNV-2, CNV-3: the table is the function."""
    fmt = ALL[name]
    steps = ref.thresholds(point, fmt, scale, zero)
    zero_point = (
        None if not name.startswith(("int", "uint")) else (np.float32 if point.zero == "bias" else np.int32)(zero)
    )
    for x in (inputs(), ref.probes(steps)):
        want = quantize(x, np.float32(scale), zero_point, fmt=fmt, convention=point)
        assert_same(ref.apply(steps, x), want, inputs={"x": x}, call=f"thresholds({point!r}, {name}, {scale}, {zero})")


@pytest.mark.parametrize(("name", "cast"), CAST_POINTS, ids=id_of)
def test_thresholds_property_table_equals_encode(name, cast):
    fmt = ALL[name]
    steps = ref.thresholds(cast, fmt)
    for x in (inputs(), ref.probes(steps)):
        assert_same(ref.apply(steps, x), encode(x, fmt=fmt, cast=cast), inputs={"x": x}, call=f"encode(x, {cast})")


@pytest.mark.parametrize(("name", "point", "multiplier", "zero"), RESCALE_POINTS, ids=id_of)
def test_thresholds_property_table_equals_requantize(name, point, multiplier, zero):
    fmt = ALL[name]
    steps = ref.thresholds(point, fmt, multiplier, zero)
    held = np.float32(multiplier) if point.multiplier == "f32" else multiplier
    for acc in (inputs().view(np.int32), ref.probes(steps)):
        want = requantize(acc, held, np.int32(zero), fmt=fmt, rescale=point)
        assert_same(ref.apply(steps, acc), want, inputs={"acc": acc})
    for start, code in zip(steps.starts[1:20], steps.codes[1:20], strict=True):
        assert exact_requantize.requantize(start, float(held), zero, fmt, point) == code


@pytest.mark.parametrize(("name", "point", "scale", "zero"), AFFINE[:10], ids=id_of)
def test_thresholds_differential_steps_equal_the_exact_opinion(name, point, scale, zero):
    steps = ref.thresholds(point, ALL[name], scale, zero)
    bits = int(np.float32(scale).view(np.uint32))
    for key in (k for start in steps.starts[1:] for k in (start - 1, start)):
        want = exact_affine.quantize(key_bits(key), bits, zero, fmt=ALL[name], convention=point)
        assert steps.code_at(key) == want


def test_thresholds_differential_encode_steps_equal_the_exact_opinion():
    for name, cast in CAST_POINTS[:6]:
        steps = ref.thresholds(cast, ALL[name])
        for key in (k for start in steps.starts[1:] for k in (start - 1, start)):
            assert steps.code_at(key) == exact.encode(key_bits(key), ALL[name], cast), (name, hex(key_bits(key)))


@pytest.mark.skipif(not HAVE_JAX, reason="JAX is not installed: the NumPy-only lane")
@pytest.mark.parametrize(
    "row", [*AFFINE[:2], AFFINE[3], AFFINE[5], AFFINE[6], AFFINE[7], AFFINE[10], AFFINE[12], AFFINE[18]], ids=id_of
)
def test_thresholds_differential_jax_finds_the_same_table(row):
    from jaxquant import thresholds as jaxed

    name, point, scale, zero = row
    assert jaxed.thresholds(point, ALL[name], scale, zero) == ref.thresholds(point, ALL[name], scale, zero)


@pytest.mark.skipif(not HAVE_JAX, reason="JAX is not installed: the NumPy-only lane")
def test_thresholds_differential_jax_finds_the_same_tables_of_casts_and_rescales():
    from jaxquant import thresholds as jaxed

    for name, cast in CAST_POINTS[:2] + CAST_POINTS[6:7]:
        assert jaxed.thresholds(cast, ALL[name]) == ref.thresholds(cast, ALL[name])
    for name, point, multiplier, zero in RESCALE_POINTS[1:4:2]:
        got, want = (m.thresholds(point, ALL[name], multiplier, zero) for m in (jaxed, ref))
        assert got == want


def test_apply_differential_of_conventions_that_need_wide_arithmetic(backend):
    """CNV-2, CNV-5: "fma" and "f64" from their tables."""
    for name, point, scale, zero in (AFFINE[2], AFFINE[12]):
        steps = ref.thresholds(point, ALL[name], scale, zero)
        x = ref.probes(steps)
        want = quantize(x, np.float32(scale), np.int32(zero), fmt=ALL[name], convention=point)
        assert_same(backend.thresholds.apply(steps, x), want, inputs={"x": x})
        assert_same(backend.thresholds.probes(steps), x, payload=True)


def test_apply_property_shapes_and_dtypes(backend):
    steps = ref.thresholds(DEFAULT, ALL["int8"], 0.5)
    for shape in ((), (0,), (2, 3)):
        got = backend.thresholds.apply(steps, np.ones(shape, np.float32))
        assert got.shape == shape and got.dtype == np.int8 and np.all(got == 2)
    with pytest.raises(TypeError) as error:
        backend.thresholds.apply(steps, np.int32([1]))
    assert str(error.value) == "apply: x has dtype int32, need float32 (the domain of the steps)"


def test_distance_property_counts_patterns(backend):
    """CNV-4."""
    div, inv = (ref.thresholds(Affine(op), ALL["int8"], 0.1) for op in ("div", "inv"))
    qmax = ref.thresholds(Affine(nan="qmax"), ALL["int8"], 0.1)
    distance = backend.thresholds.distance
    assert distance(div, div) == 0 and distance(div, inv) == distance(inv, div) > 0
    assert distance(div, qmax) == 2 * (2**23 - 1)  # every NaN and nothing else
    apart = [total for start, stop in differences(div, inv) for total in range(start, stop)]
    x = np.uint32([key_bits(k) for k in apart]).view(np.float32)
    codes = [quantize(x, np.float32(0.1), fmt=ALL["int8"], convention=Affine(op)) for op in ("div", "inv")]
    assert len(apart) == distance(div, inv) and np.all(codes[0] != codes[1])


def test_distance_golden_all_patterns_differ():
    low, high = StepFunction((-(2**31),), (0,), "float32", "int8"), StepFunction((-(2**31),), (1,), "float32", "int8")
    assert ref.distance(low, high) == 2**32
    with pytest.raises(ValueError, match=r"differences: domain is 'float32' and 'int32', need the same"):
        ref.distance(low, StepFunction((-(2**31),), (0,), "int32", "int8"))


def test_total_key_property_is_the_total_order_and_inverts():
    patterns = [0xFFFFFFFF, 0xFF800000, 0xBF800000, 0x80000001, 0x80000000, 0, 1, 0x3F800000, 0x7F800000, 0x7FFFFFFF]
    keys = [total_key(p) for p in patterns]
    assert keys == sorted(keys) and keys[0] == -(2**31) and keys[-1] == 2**31 - 1
    assert [key_bits(k) for k in keys] == patterns


def test_thresholds_exhaustive_one_octave_and_its_negative():
    """2**24 neighbouring patterns: every float32 from 8 to 16 and back; the whole of 2**32 is a command of its own."""
    steps = ref.thresholds(Affine("inv", zero="add"), ALL["int8"], 0.1, 5)
    x = np.arange(0x41000000, 0x41800000, dtype=np.uint32).view(np.float32)
    for part in (x, -x):
        want = quantize(part, np.float32(0.1), np.int32(5), fmt=ALL["int8"], convention=Affine("inv", zero="add"))
        assert_same(ref.apply(steps, part), want)


def test_seed_keys_property_hold_what_the_rule_names():
    """CNV-3: quarters of every octave, a key in each, both zeros, the infinities, the first and last NaN."""
    up = [*range(0, 2**31, 2**21), *range(0x13C6EF, 2**31, 2**21), 0x7F800000, 0x7F800001, 0x7FFFFFFF]
    seeds = seed_keys()
    assert {total_key(bits | sign) for bits in up for sign in (0, 2**31)} <= set(seeds)
    assert list(seeds) == sorted(set(seeds)) and len(seeds) < 4200


def test_probe_keys_golden_ends_of_the_domain():
    """CNV-5: the keys beside every start, as far as there are any."""
    low, high = -(2**31), 2**31 - 1
    one, two = (StepFunction((low, *more), (0, 1, 0)[: 1 + len(more)], "int32", "int8") for more in ((5, high), (7,)))
    assert probe_keys(one, two) == (low, low + 1, 4, 5, 6, 7, 8, high - 1, high)


def wrapping(x: np.ndarray) -> np.ndarray:
    """A typical wrong int8 kernel: it wraps instead of saturating."""
    with np.errstate(all="ignore"):
        scaled = np.asarray(x) / np.float32(0.0123)
        return np.rint(np.nan_to_num(scaled, posinf=0, neginf=0)).astype(np.int64).astype(np.int8)


def test_tabulate_golden_stops_where_a_function_wraps(backend):
    """CNV-3: 2**31 steps are no table; the text says where the code jumps."""
    with pytest.raises(ValueError) as error:
        backend.thresholds.tabulate(wrapping)
    assert str(error.value) == (
        "tabulate: function has more than 131,072 steps, need a function of at most limit = 131,072 steps: at "
        "x = 1.56825 the code goes from 127 to -128; does it saturate? (CNV-3)"
    )
    with pytest.raises(ValueError, match="at x = 1332096 the code goes from 127 to -128"):
        backend.thresholds.tabulate(lambda acc: (np.asarray(acc) // 3).astype(np.int8), domain="int32")


@pytest.mark.parametrize("scale", [2.0**-10, 0.1, 0.125, 1.0, 4.0])
@pytest.mark.parametrize("wide", [np.int32, np.int64])
def test_tabulate_golden_sees_wrapping_at_powers_of_two(backend, scale, wide):
    """CNV-3: quarters of octaves are multiples of 256 steps there, where the wrapped code is that of zero."""

    def wraps(x: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):
            steps = np.rint(np.nan_to_num(np.asarray(x) / np.float32(scale), posinf=0, neginf=0))
            return np.clip(steps, np.iinfo(wide).min, np.iinfo(wide).max // 2).astype(wide).astype(np.int8)

    with pytest.raises(ValueError, match="the code goes from 127 to -128; does it saturate"):
        backend.thresholds.tabulate(wraps)
    with pytest.raises(ValueError, match="does it saturate"):
        backend.thresholds.tabulate(lambda acc: (np.asarray(acc) >> 3).astype(np.int8), domain="int32")


def test_tabulate_golden_limit_is_the_number_of_steps(backend):
    """Four codes of five: int2 has four steps and as many starts beside the first."""
    steps = ref.thresholds(DEFAULT, ALL["int2"], 0.1)
    function = lambda x: ref.apply(steps, np.asarray(x))  # noqa: E731
    assert backend.thresholds.tabulate(function, limit=4) == steps and len(steps.starts) == 5
    with pytest.raises(ValueError, match=r"more than 3 steps, .* the code goes from"):
        backend.thresholds.tabulate(function, limit=3)
    with pytest.raises(ValueError, match="tabulate: limit is 0, need an integer from 1 to 4294967296"):
        backend.thresholds.tabulate(function, limit=0)


@pytest.mark.parametrize(
    ("storage", "code", "dtype"),
    [("uint8", -1, np.int8), ("int8", 128, np.uint8), ("int8", -129, np.int64), ("uint8", 0.5, np.float32)],
)
def test_tabulate_golden_storage_holds_the_codes(backend, storage, code, dtype):
    """CNV-3: one code outside is refused; codes of another dtype that fit are not."""

    def function(x, code=code):
        return np.where(np.asarray(x) > 1, np.array(code, dtype), np.array(1, dtype))

    with pytest.raises(ValueError) as error:
        backend.thresholds.tabulate(function, storage=storage)
    assert str(error.value) == (f"tabulate: storage is '{storage}', need a dtype that holds the code {code} (CNV-3)")
    low, high = np.iinfo(storage).min, np.iinfo(storage).max
    for code in (low, high):
        table = backend.thresholds.tabulate(lambda x, c=code: np.where(np.asarray(x) > 1, c, 1), storage=storage)
        assert backend.thresholds.apply(table, np.float32([0, 2])).tolist() == [1, code]


def test_thresholds_golden_16_bits_are_below_the_limit():
    assert len(ref.thresholds(DEFAULT, ALL["uint16"], 0.1).starts) == 65537
    assert len(ref.thresholds(CAST, ALL["bfloat16"]).starts) < ref.LIMIT


@pytest.mark.parametrize("row", [PRESETS["onnx"], RESCALES["xnnpack"]], ids=lambda row: row.name)
def test_rows_are_refused_where_their_points_are_meant(backend, row):
    """The message names the attribute that holds the point."""
    table, kind, need = ref.thresholds(DEFAULT, ALL["int2"]), type(row).__name__, "need a StepFunction such as"
    for function, call in (
        ("distance", lambda: backend.thresholds.distance(table, row)),
        ("differences", lambda: differences(table, row)),
    ):
        with pytest.raises(
            TypeError, match=rf"^{function}: b is a {kind}, {need} thresholds\(PRESETS.*\.affine.*\.point"
        ):
            call()
    with pytest.raises(TypeError, match=rf"^probes: steps\[1\] is a {kind}, {need}"):
        backend.thresholds.probes(table, row)
    with pytest.raises(TypeError, match=rf"^thresholds: convention is .*{kind}, need .*\.affine or .*\.point"):
        backend.thresholds.thresholds(row, ALL["int2"])
    with pytest.raises(
        TypeError, match=r"^requantize: rescale is .*, need a Rescale .* or .*RESCALES\['xnnpack'\].point"
    ):
        backend.requantize.requantize(np.int32([1]), np.float32(1), fmt=ALL["int8"], rescale=row)
