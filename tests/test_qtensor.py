"""quantize_tensor and dequantize_tensor (specs/30-scales.md, QTN-1..QTN-3)."""

import exact
import numpy as np
import pytest
import strategies as some
from bits import assert_same

from refquant.conventions import Affine
from refquant.formats import ALL
from refquant.granularity import PerAxis, PerGroup, PerTensor, PerToken
from refquant.qtensor import spec_convention
from refquant.spec import QuantSpec, ScaleRule

SPECS = [
    QuantSpec(ALL["int8"]),
    QuantSpec(ALL["int4"], PerGroup(1, 32)),
    QuantSpec(ALL["uint4"], PerGroup(1, 32), ScaleRule("int")),
    QuantSpec(ALL["uint4"], PerAxis(0), ScaleRule("float", storage="float16")),
    QuantSpec(ALL["int4"], PerAxis(0), ScaleRule(denominator="signed_absmax", storage="float16")),
    QuantSpec(ALL["e4m3fn"], PerToken()),
    QuantSpec(ALL["e2m1fn"], PerGroup(1, 32), ScaleRule(storage="e8m0fnu")),
    QuantSpec(ALL["nf4"], PerGroup(1, 32), ScaleRule(storage="bfloat16")),
    QuantSpec(ALL["int8"], PerTensor(), ScaleRule(storage="pow2"), Affine(op="inv", nan="qmax")),
    QuantSpec(ALL["int3"], PerGroup(1, 7), ScaleRule(denominator="half_range", storage="e4m3fn")),
    QuantSpec(ALL["int8"], PerAxis(0), ScaleRule(), Affine(op="given")),
]


def weights(shape: tuple[int, ...] = (6, 100)) -> np.ndarray:
    x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    x.flat[:: x.size // 20] = np.resize(some.SPECIAL, x.flat[:: x.size // 20].shape)
    return x


def check_compose(package: object, spec: QuantSpec) -> None:
    """QTN-1 and QTN-2: the pieces, put together by hand."""
    x = weights()
    q = package.qtensor.quantize_tensor(x, spec)
    low, high = package.scales.range_of(x, granularity=spec.granularity)
    scale, zero_point = package.scales.choose_scale(low, high, fmt=spec.fmt, rule=spec.scale)
    assert_same(np.asarray(q.scale), np.asarray(scale))
    fields = {**vars(spec.convention)}
    if spec.scale.zero == "float":
        fields["zero"] = "bias"
    given = np.float32(1) / np.asarray(scale) if spec.convention.op == "given" else scale
    options = {"fmt": spec.fmt, "granularity": spec.granularity}
    codes = package.affine.quantize(x, given, zero_point, convention=Affine(**fields), **options)
    assert_same(np.asarray(q.codes), np.asarray(codes))
    values = package.affine.dequantize(codes, scale, zero_point, **options)
    assert_same(np.asarray(package.qtensor.dequantize_tensor(q)), np.asarray(values))


@pytest.mark.parametrize("spec", SPECS, ids=lambda s: f"{s.fmt.name}-{s.granularity}-{s.scale.zero}-{s.scale.storage}")
def test_quantize_tensor_property_is_its_pieces(backend, spec):
    """QTN-1, QTN-2."""
    check_compose(backend, spec)


@pytest.mark.parametrize("spec", SPECS, ids=lambda s: f"{s.fmt.name}-{s.granularity}-{s.scale.zero}-{s.scale.storage}")
def test_quantize_tensor_differential(spec):
    """QTN-1, QTN-2: both packages, all bits and the size."""
    pytest.importorskip("jax")
    import jaxquant
    import refquant

    x = weights()
    got, want = jaxquant.quantize_tensor(x, spec), refquant.quantize_tensor(x, spec)
    assert_same(np.asarray(got.codes), want.codes, inputs={"x": x})
    assert_same(np.asarray(got.scale), want.scale)
    assert (got.zero_point is None) == (want.zero_point is None)
    if want.zero_point is not None:
        assert_same(np.asarray(got.zero_point), want.zero_point)
    assert (got.nbytes, got.shape, got.spec) == (want.nbytes, want.shape, want.spec)
    assert_same(np.asarray(jaxquant.dequantize_tensor(got)), refquant.dequantize_tensor(want))


def test_nbytes_golden(backend):
    """QTN-3: packed codes, scales at storage width, zero points."""
    x = weights((8, 64))
    for spec, want in [
        (QuantSpec(ALL["int4"], PerGroup(1, 32), ScaleRule(storage="float16")), 8 * 64 // 2 + 16 * 2),
        (QuantSpec(ALL["uint4"], PerGroup(1, 32), ScaleRule("int")), 8 * 64 // 2 + 16 * 4 + 16 // 2),
        (QuantSpec(ALL["uint4"], PerAxis(0), ScaleRule("float")), 8 * 64 // 2 + 8 * 4 + 8 * 4),
        (QuantSpec(ALL["int3"]), 8 * 64 * 3 // 8 + 4),
    ]:
        assert backend.qtensor.quantize_tensor(x, spec).nbytes == want


@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (1,)])
def test_quantize_tensor_property_small_shapes(backend, shape):
    """QTN-1, GRA-2: 0-d and empty arrays."""
    x = np.full(shape, 0.5, np.float32)
    q = backend.qtensor.quantize_tensor(x, QuantSpec(ALL["int8"]))
    assert np.asarray(q.codes).shape == shape
    assert np.asarray(q.scale).shape == ()
    assert backend.qtensor.dequantize_tensor(q).shape == shape
    assert exact.decode(int(np.asarray(q.codes).flat[0]), ALL["int8"]) == 0x42FE0000 if x.size else True


def test_qtensor_is_a_pytree():
    """QTN-1: through jit and tree_map, the spec static."""
    jax = pytest.importorskip("jax")
    import jaxquant

    spec = QuantSpec(ALL["uint4"], PerGroup(1, 32), ScaleRule("int"))
    q = jax.jit(lambda x: jaxquant.quantize_tensor(x, spec))(weights())
    assert q.spec == spec
    assert len(jax.tree.leaves(q)) == 3
    values = jax.jit(jaxquant.dequantize_tensor)(q)
    assert_same(np.asarray(values), np.asarray(jaxquant.dequantize_tensor(q)))


@pytest.mark.parametrize("zero", ["int", "add", "fma", "bias"])
def test_spec_convention_golden_zero_points(zero):
    """QTN-2: the scale rule decides between an integer and a real offset; how an integer is added stays."""
    convention = Affine(zero=zero)
    integer = spec_convention(QuantSpec(ALL["uint4"], scale=ScaleRule("int"), convention=convention))
    real = spec_convention(QuantSpec(ALL["uint4"], scale=ScaleRule("float"), convention=convention))
    assert integer.zero == ("int" if zero == "bias" else zero)
    assert real.zero == "bias"
