"""Layers in training: the forward bits of the converted layer, the gradients of the rule (LAY-12, LAY-13)."""

from __future__ import annotations

import importlib
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from bits import assert_same
from layers_support import ASYM, KINDS, Case, arrays, covering, jax_layer, spec

from refquant import qat, qtensor
from refquant.estimators import Lsq, LsqPlus, Pact, Ste
from refquant.formats import ALL
from refquant.granularity import PerAxis, PerGroup, PerTensor, PerToken
from refquant.spec import QuantSpec

jax = pytest.importorskip("jax")
jnp = jax.numpy

from jaxquant import fake_quantize  # noqa: E402
from jaxquant import qat as jax_qat  # noqa: E402

FIELDS = {
    "kind": tuple(KINDS),
    "weights": ("int8", "int4", "int2", "uint4"),
    "grain": ("tensor", "channel", "g16"),
    "inputs": ("int8", "uint8"),
    "mode": ("tensor", "token", "static"),
    "dtype": ("float32", "bfloat16"),
    "x_dtype": ("float32", "bfloat16"),
    "bias": ("none", "float", "int"),
    "estimator": ("ste", "lsq", "lsq+"),
    "master": ("float32", "bfloat16"),
}
POINTS = covering(FIELDS, seed=3)


def trained(case: Case, estimator: str, master: str) -> qat.Trained:
    """A weight in training of the case's shape and spec; learned scales near those of its range."""
    rng = np.random.default_rng(len(str(case)))
    weight = arrays(case)[1]
    values = (rng.standard_normal(weight.codes.shape) * 0.1 + 0.02).astype(np.float32).astype(master)
    if estimator == "ste":
        return qat.Trained(values, spec=weight.spec)
    scale = (np.abs(weight.scale) * np.float32(0.7)).astype(np.float32)
    if estimator == "lsq":
        return qat.Trained(values, (scale,), spec=replace_zero(weight.spec), estimator=Lsq())
    return qat.Trained(values, (scale, scale * np.float32(1.3)), spec=weight.spec, estimator=LsqPlus())


def replace_zero(given: QuantSpec) -> QuantSpec:
    """Lsq knows no zero point; its scale rule is not asked."""
    return given if given.fmt.signed else replace(given, fmt=ALL["int4"], scale=spec("int4").scale)


def in_jax(weight: qat.Trained) -> jax_qat.Trained:
    learned = tuple(map(jnp.asarray, weight.learned))
    return jax_qat.Trained(jnp.asarray(weight.values), learned, spec=weight.spec, estimator=weight.estimator)


WAYS = {
    "eager": lambda f, *a: f(*a),
    "jit": lambda f, *a: jax.jit(f)(*a),
    "value_and_grad": lambda f, *a: jax.jit(lambda *a: jax.vjp(f, *a)[0])(*a),
    "remat": lambda f, *a: jax.jit(lambda *a: jax.vjp(jax.checkpoint(f), *a)[0])(*a),
    "constant weights": lambda f, x, w, b: jax.jit(lambda x: f(x, w, b))(x),
    "scan": lambda f, x, w, b: jax.lax.scan(lambda c, x: (c, f(x, w, b)), 0, jnp.stack([x, x]))[1][1],
    "vmap": lambda f, x, w, b: jax.vmap(f, (0, None, None))(jnp.stack([x, x]), w, b)[1],
}


@pytest.mark.parametrize("number", range(len(POINTS)), ids=lambda n: "-".join(map(str, POINTS[n])))
def test_training_differential_equals_the_converted_layer(number: int) -> None:
    point = dict(zip(FIELDS, POINTS[number], strict=True))
    estimator, master = point.pop("estimator"), point.pop("master")
    case = Case(**point, asym=estimator == "lsq+" or point["weights"] == "uint4")
    weight = trained(case, estimator, master)
    x, _, bias, static = arrays(case)
    given = subscripts(case)
    want = getattr(qat, case.operation)(*given, x, weight.quantized(), bias, **case.options(), **static)
    assert_same(getattr(qat, case.operation)(*given, x, weight, bias, **case.options(), **static), want)
    layer, (x, _, bias, static) = jax_layer(case)

    def run(x: object, w: object, b: object) -> object:
        return layer(x, w, b, static)

    w = in_jax(weight)
    for name, way in WAYS.items() if number % 6 == 0 else list(WAYS.items())[1:3]:
        assert_same(np.asarray(way(run, x, w, bias)), want, call=name)
    assert_same(np.asarray(jax.jit(run)(x, jax.jit(jax_qat.Trained.quantized)(w), bias)), want, call="converted")


def subscripts(case: Case) -> tuple:
    given = KINDS[case.kind][5].get("subscripts")
    return () if given is None else (given,)


@pytest.mark.parametrize("fmt", ["int4", "nf4", "e4m3fn"])
@pytest.mark.parametrize("kind", ["dense", "conv"])
def test_weights_only_differential_trained_equals_converted(kind: str, fmt: str) -> None:
    case = replace(Case(kind, "int4", mode="tensor"), weights="int8")
    x, _, bias, _ = arrays(case)
    values = np.random.default_rng(1).standard_normal(KINDS[kind][1]).astype(np.float32)
    weight = jax_qat.Trained(jnp.asarray(values), spec=QuantSpec(ALL[fmt], KINDS[kind][2]))
    options = {k: v for k, v in case.options().items() if k != "inputs"}
    layer = jax.jit(lambda x, w: getattr(jax_qat, case.operation)(x, w, bias, **options))
    assert_same(np.asarray(layer(x, weight)), np.asarray(layer(x, weight.quantized())))
    want = qtensor.quantize_tensor(values, weight.spec)
    assert_same(np.asarray(weight.quantized().codes), want.codes)


#: Power-of-two scales, small integer cotangents: the float products of the backward pass are exact, so bits can tell.
EXACT = {
    "token": (QuantSpec(ALL["int8"], PerToken()), PerAxis(1)),
    "tensor": (QuantSpec(ALL["int8"]), PerGroup(0, 8)),
    "asymmetric": (QuantSpec(ALL["uint8"], PerToken(), ASYM), PerTensor()),
}


@pytest.mark.parametrize("name", EXACT)
def test_gradients_golden_where_the_float_products_are_exact(name: str) -> None:
    inputs, grain = EXACT[name]
    inputs = replace(inputs, scale=replace(inputs.scale, storage="pow2"))
    w_spec = QuantSpec(ALL["int4"], grain, spec("int4").scale)
    w_spec = replace(w_spec, scale=replace(w_spec.scale, storage="pow2"))
    rng = np.random.default_rng(4)
    x, w = rng.standard_normal((5, 16)).astype(np.float32), rng.standard_normal((16, 3)).astype(np.float32)
    x[0, 0] = np.nan
    g = rng.integers(-8, 9, (5, 3)).astype(np.float32)
    weight = jax_qat.Trained(jnp.asarray(w), spec=w_spec)
    _, pull = jax.vjp(lambda x, w, b: jax_qat.dense(x, w, b, inputs=inputs), x, weight, jnp.zeros(3))
    to_x, to_weight, to_bias = map(np.asarray, jax.tree.leaves(pull(jnp.asarray(g))))
    qx, qw = qtensor.quantize_tensor(x, inputs), qtensor.quantize_tensor(w, w_spec)
    dense_x = g.astype(np.float64) @ qtensor.dequantize_tensor(qw).T.astype(np.float64)
    dense_w = qtensor.dequantize_tensor(qx).T.astype(np.float64) @ g.astype(np.float64)
    shared = {"fmt": inputs.fmt, "granularity": inputs.granularity}
    want = qat.fake_quantize_vjp(x, qx.scale, qx.zero_point, dense_x.astype(np.float32), **shared)
    assert_same(to_x, want)
    assert to_x[0, 0] == 0  # NaN lies outside
    shared = {"fmt": w_spec.fmt, "granularity": w_spec.granularity}
    assert_same(to_weight, qat.fake_quantize_vjp(w, qw.scale, None, dense_w.astype(np.float32), **shared))
    assert_same(to_bias, g.sum(0))


def test_gradients_differential_learned_scales_equal_the_estimators_vjp() -> None:
    rng = np.random.default_rng(5)
    x, w = rng.standard_normal((6, 16)).astype(np.float32), rng.standard_normal((16, 4)).astype(np.float32)
    w_spec, x_spec = QuantSpec(ALL["int4"], PerAxis(1)), QuantSpec(ALL["uint4"], PerTensor(), ASYM)
    scales = np.full((1, 4), 0.25, np.float32)
    g = rng.integers(-4, 5, (6, 4)).astype(np.float32)
    for estimator, learned in ((Pact(), (np.float32(1.875),)), (LsqPlus(), (np.float32(0.125), np.float32(-0.5)))):
        weight = jax_qat.Trained(jnp.asarray(w), (jnp.asarray(scales),), spec=w_spec, estimator=Lsq())

        def layer(x: object, w: object, *given: object, estimator: object = estimator) -> object:
            names = dict(zip(("input_scale", "input_zero_point"), given, strict=False))
            return jax_qat.dense(x, w, inputs=x_spec, input_estimator=estimator, **names)

        y, pull = jax.vjp(layer, x, weight, *map(jnp.asarray, learned))
        to_x, to_weight, *to_learned = pull(jnp.asarray(g))
        names = dict(zip(("input_scale", "input_zero_point"), learned, strict=False))
        same = qat.Trained(w, (scales,), spec=w_spec, estimator=Lsq())
        want = qat.dense(x, same, inputs=x_spec, input_estimator=estimator, **names)
        assert_same(np.asarray(y), want)
        flowing = (g @ qtensor.dequantize_tensor(same.quantized()).T).astype(np.float32)  # exact: powers of two
        options = {"fmt": x_spec.fmt, "granularity": x_spec.granularity}
        x_want, found = qat.learned.learned_vjp(estimator, x, tuple(map(np.asarray, learned)), flowing, **options)
        assert_same(np.asarray(to_x), x_want)
        for got, right in zip(to_learned, found, strict=True):
            assert_same(np.asarray(got), right)
        assert to_weight.learned[0].shape == scales.shape
        assert np.asarray(to_weight.learned[0]).any()


def test_embed_differential_trained_rows_and_their_gradients() -> None:
    rng = np.random.default_rng(6)
    values = rng.standard_normal((7, 12)).astype(np.float32)
    ids = np.array([[1, 6, -1], [3, 3, 9]], np.int32)
    for grain in (PerTensor(), PerAxis(0), PerAxis(1), PerGroup(1, 4)):
        table = jax_qat.Trained(jnp.asarray(values), spec=QuantSpec(ALL["int3"], grain))
        for dtype in ("float32", "bfloat16"):
            want = qat.embed(ids, qat.Trained(values, spec=table.spec), dtype=dtype)
            assert_same(np.asarray(jax_qat.embed(ids, table, dtype=dtype)), want)
            assert_same(np.asarray(jax_qat.embed(ids, table.quantized(), dtype=dtype)), want)
        gradient = jax.grad(lambda t: jnp.nansum(jax_qat.embed(ids, t)))(table).values
        counts = np.array([0, 1, 0, 2, 0, 0, 2], np.float32)
        assert_same(np.asarray(gradient), np.broadcast_to(counts[:, None], values.shape))


@pytest.mark.parametrize("grain", [PerToken(), PerTensor()], ids=str)
def test_gradients_property_pass_a_range_of_its_own(grain: object) -> None:
    """LAY-13: all but NaN; where infinities or 2^127 make the scale the largest, nothing that has a code at an end."""
    inputs = QuantSpec(ALL["int8"], grain)
    weight = jax_qat.Trained(jnp.ones((4, 3)), spec=QuantSpec(ALL["int4"])).quantized()
    rows = np.float32([[1, -1, np.nan, 0], [2.0**127, -(2.0**127), 1e30, 0], [np.inf, 8e37, -np.inf, np.nan]])
    for row in rows[:, None]:
        layer = jax.jit(lambda x: jax_qat.dense(x, weight, inputs=inputs))
        to_x = jax.vjp(layer, row)[1](jnp.ones((1, 3)))[0]
        codes, largest = qtensor.quantize_tensor(row, inputs).codes, not (np.abs(row) < 2.0**126)[~np.isnan(row)].all()
        outside = (codes == -128) | (largest & (codes == 127))
        assert_same(np.asarray(to_x) == 0, outside, inputs={"x": row})
        assert outside.any() and not outside.all()


def residual_bytes(function: object, *arguments: object) -> int:
    return sum(leaf.nbytes for leaf in jax.tree.leaves(jax.vjp(function, *arguments)[1]))


def test_residuals_property_no_more_than_the_float_layer_keeps() -> None:
    """A code and at most a mask, a byte each, where the float layer keeps 4 of x; the master is its own residual."""
    x, w, b = jnp.ones((64, 128)), jnp.ones((128, 96)), jnp.zeros(96)
    plain = residual_bytes(lambda x, w, b: x @ w + b, x, w, b)
    dynamic, static = QuantSpec(ALL["int8"], PerToken()), QuantSpec(ALL["int8"])
    w_spec = QuantSpec(ALL["int4"], PerAxis(1))
    small = (64 + 96 + 96 + 8) * 4  # scales of tokens and channels, the bias, numbers
    for options in (
        {"inputs": dynamic},
        {"inputs": static, "input_scale": 0.1},
        {"inputs": static, "input_scale": jnp.float32(0.1), "input_estimator": Lsq()},
        {},
    ):
        kept = residual_bytes(
            lambda x, w, b, o=options: jax_qat.dense(x, jax_qat.Trained(w, spec=w_spec), b, **o), x, w, b
        )
        assert kept <= plain + small, options
    assert (
        residual_bytes(lambda x: jax_qat.dense(x, jax_qat.Trained(w, spec=w_spec).quantized(), b, inputs=dynamic), x)
        < plain
    )


def test_forward_mode_property_is_refused_by_name() -> None:
    w, x = jax_qat.Trained(jnp.ones((4, 3)), spec=QuantSpec(ALL["int4"])), jnp.ones((2, 4))
    fake = partial(fake_quantize, scale=0.1, fmt=ALL["int8"])
    text = "^forward-mode autodiff .* of a straight-through gradient, need reverse mode"
    for f in (lambda x: jax_qat.dense(x, w, inputs=QuantSpec(ALL["int8"])), lambda x: jax_qat.dense(x, w), fake):
        for forward in (jax.jacfwd(f), lambda x, f=f: jax.jvp(f, (x,), (x,))):
            with pytest.raises(TypeError, match=text):
                forward(x)
        with pytest.raises(TypeError, match="forward-mode"):  # compiled as a whole, JAX says it itself
            jax.jvp(jax.jit(f), (x,), (x,))


def test_second_derivatives_property_are_refused_by_name() -> None:
    """Behind steps on bits JAX would see no tangent, and answer 0."""
    w = jax_qat.Trained(jnp.ones((4, 3)), spec=QuantSpec(ALL["int4"]))
    for inputs in (QuantSpec(ALL["int8"]), None):
        f = lambda x, i=inputs: (jax_qat.dense(x, w, inputs=i) ** 2).sum()  # noqa: E731
        for second in (jax.hessian(f), jax.jacrev(jax.jacrev(f)), jax.grad(lambda x, f=f: jax.grad(f)(x).sum())):
            with pytest.raises(TypeError, match="first derivatives only"):
                second(jnp.ones((2, 4)))


ERRORS = [
    ({"input_estimator": Lsq()}, "input_estimator Lsq, need input_scale alone"),
    ({"input_estimator": LsqPlus(), "input_scale": 0.1}, "need input_scale and a float32 input_zero_point"),
    ({"input_estimator": Lsq(), "input_scale": 0.1, "input_zero_point": 1}, "need input_scale alone"),
    ({"input_estimator": Lsq(), "inputs": None, "input_scale": 0.1}, "need the QuantSpec of the inputs"),
]


@pytest.mark.parametrize(("options", "text"), ERRORS)
def test_errors_property_of_learned_inputs(backend: object, options: dict, text: str) -> None:
    options = {"inputs": QuantSpec(ALL["int8"])} | options
    module = importlib.import_module(f"{backend.name}.qtensor")
    weight = module.quantize_tensor(np.ones((4, 3), np.float32), QuantSpec(ALL["int4"]))
    with pytest.raises(ValueError, match=text):
        backend.qat.dense(np.ones((2, 4), np.float32), weight, **options)


def test_errors_property_of_a_weight_in_training(backend: object) -> None:
    module = jax_qat if backend.name == "jaxquant" else qat
    w_spec = QuantSpec(ALL["int4"], PerAxis(1))
    for learned, estimator in (((), Lsq()), ((np.float32(1),), Ste()), ((np.ones((2, 1), np.float32),), Lsq())):
        weight = module.Trained(np.ones((4, 3), np.float32), learned, spec=w_spec, estimator=estimator)
        with pytest.raises(ValueError, match=r"learned"):
            backend.qat.dense(np.ones((2, 4), np.float32), weight, inputs=QuantSpec(ALL["int8"]))


def test_gradients_property_trace_no_step_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Inside a gradient JAX sets an empty mesh where there was none, and its cache would not know the steps again."""
    from jaxquant import scales

    seen, whole = [], scales._own_quotient
    monkeypatch.setattr(scales, "_own_quotient", lambda x, *rest: (seen.append(x.shape), whole(x, *rest))[1])
    weight = jax_qat.Trained(jnp.ones((37, 3)), spec=QuantSpec(ALL["int4"]))
    step = jax.jit(jax.grad(lambda w, x: jax_qat.dense(x, w, inputs=QuantSpec(ALL["int8"])).sum()))
    step.trace(weight, jnp.ones((2, 37)))
    assert sorted(seen) == [(2, 37), (37, 3)]


def test_straight_through_property_compiles_once() -> None:
    layer = jax.jit(lambda x, w: jax_qat.dense(x, w, inputs=QuantSpec(ALL["int8"])))
    for value in (1.0, 2.0, 3.0):
        layer(jnp.full((2, 4), value), jax_qat.Trained(jnp.full((4, 3), value), spec=QuantSpec(ALL["int4"])))
    assert layer._cache_size() == 1
