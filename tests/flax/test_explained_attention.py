"""explain's rows of the products of an attention: one a product, the same in both APIs, under Flax's transforms."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bits import assert_same
from flax import linen as nn
from flax import nnx

import refquant
from jaxquant.flax import Recipe, Rule, linen_api, measures, nnx_api
from jaxquant.flax.attention import QuantizedAttention
from jaxquant.flax.site import resolve_attention
from tests.flax.api_support import api  # noqa: F401
from tests.flax.linen_models import full_init, inputs
from tests.flax.nnx_models import jitted, near_boundary, remat, scanned

X = inputs(2, 5, 8)
IDS = jnp.arange(12).reshape(2, 6) % 13
ATTENTION = Rule("**/attention", attention="int4")
RECIPE = Recipe(ATTENTION, Rule("**", weights="int8", inputs="int8"))
PRODUCTS = {"attention QKᵀ", "attention PV"}


def test_each_product_has_a_row(api: Any) -> None:  # noqa: F811
    trial = api.prepare(api.own_model("Tied", IDS), RECIPE, IDS)
    before, want = trial.leaves(), trial.run(IDS)
    rows = {row.path: row for row in trial.explain(IDS)}
    assert set(rows) >= {"attention/query", "table"} | PRODUCTS
    for row in (rows[name] for name in PRODUCTS):
        assert 0.01 < row.error < 0.2 and row.why == "" and row.inputs_clipped == row.weights_clipped == 0
        assert (row.codes, row.of, row.bits) == (0, 0, 0)
    assert trial.leaves().keys() == before.keys()
    assert_same(trial.run(IDS), want)
    mild = api.prepare(api.own_model("Tied", IDS), Recipe(Rule("attention", attention="int8")), IDS)
    alone = mild.explain(IDS)  # no layer runs on codes
    assert {row.path for row in alone} == PRODUCTS and all(0 < row.error < 0.01 for row in alone)
    off = api.prepare(api.own_model("Tied", IDS), Recipe(Rule("**", weights="int8")), IDS)
    assert not [row for row in off.explain(IDS) if row.path in PRODUCTS]
    line = next(line for line in str(alone).splitlines() if "PV" in line)
    assert line.split()[2:] == [f"{alone.rows[[r.path for r in alone].index('attention PV')].error:.2%}", "0.00%"]


@pytest.mark.parametrize("scheme", ["int4", "int4:tensor", "uint8:token:asym", "int4:token:sf16"])
def test_the_numbers_are_those_of_the_operands(scheme: str) -> None:
    """Both operands quantized in NumPy, token by token, and multiplied in float64."""
    q, k = inputs(1, 5, 1, 8), inputs(1, 7, 1, 8) * 3
    site = resolve_attention(Rule("**", attention=scheme))
    found: dict[str, measures.Measures] = {}
    QuantizedAttention(site, found.__setitem__)(q, k, k)
    assert list(found) == ["QKᵀ", "PV"]
    spec = site.inputs_for(2, (1,))
    a, b = np.asarray(q[0, :, 0] / jnp.sqrt(8).astype(jnp.float32)), np.asarray(k[0, :, 0])
    values = [refquant.dequantize_tensor(refquant.quantize_tensor(v, spec)).astype(np.float64) for v in (a, b)]
    plain = a.astype(np.float64) @ b.T
    error = np.linalg.norm(values[0] @ values[1].T - plain) / np.linalg.norm(plain)
    (row,) = measures.explanations([("QKᵀ", found["QKᵀ"])])
    assert row.error == pytest.approx(error, rel=1e-3)
    assert float(found["QKᵀ"].inputs) == q.size + k.size and 0 <= row.inputs_clipped < 0.2


class LinenBlock(nn.Module):
    """A scan's body."""

    @nn.compact
    def __call__(self, x: jax.Array, _: Any = None) -> tuple[jax.Array, None]:
        return x + nn.MultiHeadDotProductAttention(2, name="attention")(x), None


class LinenStack(nn.Module):
    """Three blocks, or one in a transform of another kind."""

    kind: str

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        own = {"variable_axes": {"params": 0}, "split_rngs": {"params": True}}
        shared = {"variable_axes": {"params": None}, "split_rngs": {"params": False}}
        if self.kind == "scan":
            return nn.scan(LinenBlock, **own, length=3)(name="layers")(x, None)[0]
        if self.kind == "vmap":
            return nn.vmap(LinenBlock, **own)(name="layers")(x)[0]
        if self.kind == "shared vmap":
            return nn.vmap(LinenBlock, **shared)(name="layers")(x)[0]
        if self.kind == "cond":
            block = LinenBlock(name="layers")
            y = x + nn.MultiHeadDotProductAttention(2, name="attention")(x)
            block(x) if self.is_initializing() else None
            return nn.cond(True, lambda block, x: block(x)[0], lambda block, x: x, block, y)
        return getattr(nn, self.kind)(LinenBlock)(name="layers")(x)[0]


STACKED = {"scan": 3, "vmap": 2}


@pytest.mark.parametrize("kind", ["scan", "vmap", "shared vmap", "jit", "remat"])
def test_linen_transforms_have_the_rows_of_their_layers(kind: str) -> None:
    model = LinenStack(kind)
    qmodel = linen_api.Quantized(model, RECIPE)
    params, _ = linen_api.prepare(qmodel, full_init(model, X), X)
    rows = {row.path: row.error for row in linen_api.explain(qmodel, params, X)}
    ends = [f"[{i}]" for i in range(STACKED.get(kind, 0))] or [""]
    assert set(rows) >= {f"layers/{name}{end}" for name in (*PRODUCTS, "attention/query") for end in ends}
    assert all(0 < error < 0.3 for error in rows.values())
    if kind == "shared vmap":
        alone = linen_api.Quantized(LinenStack("jit"), RECIPE)
        want = {row.path: row.error for row in linen_api.explain(alone, params, X)}
        assert rows["layers/attention PV"] == pytest.approx(want["layers/attention PV"], rel=1e-3)


def test_linen_attentions_in_branches_have_none() -> None:
    model = LinenStack("cond")
    qmodel = linen_api.Quantized(model, RECIPE)
    params, _ = linen_api.prepare(qmodel, full_init(model, X), X)
    rows = {row.path: row.error for row in linen_api.explain(qmodel, params, X)}
    assert {path for path in rows if path.endswith(("QKᵀ", "PV"))} == PRODUCTS
    assert "layers/attention/query" in rows


class NnxBlock(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.attention = nnx.MultiHeadAttention(2, 8, decode=False, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return x + self.attention(x)


class NnxStack(nnx.Module):
    """The twin."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        make = nnx.vmap(NnxBlock, in_axes=0, out_axes=0) if kind == "scan" else NnxBlock
        key = jax.random.key(0)
        self.layers = make(nnx.Rngs(params=jax.random.split(key, 3) if kind == "scan" else key))

    def __call__(self, x: jax.Array) -> jax.Array:
        return {"scan": scanned, "remat": remat, "jit": jitted}[self.kind](self.layers, x)


@pytest.mark.parametrize("kind", ["scan", "remat", "jit"])
def test_nnx_transforms_have_the_rows_of_their_layers(kind: str) -> None:
    qmodel, _ = nnx_api.prepare(near_boundary(NnxStack(kind)), RECIPE, X)
    before = nnx.graphdef(qmodel)
    rows = {row.path: row.error for row in nnx_api.explain(qmodel, X)}
    ends = [f"[{i}]" for i in range(STACKED.get(kind, 0))] or [""]
    assert set(rows) == {
        f"layers/{name}{end}"
        for name in (*PRODUCTS, *(f"attention/{part}" for part in ("query", "key", "value", "out")))
        for end in ends
    }
    assert all(0 < error < 0.3 for error in rows.values())
    assert nnx.graphdef(qmodel) == before


def test_an_attention_alone_has_its_products_by_name() -> None:
    recipe = Recipe(Rule("**", attention="int8"))
    qmodel, _ = nnx_api.prepare(nnx.MultiHeadAttention(2, 8, decode=False, rngs=nnx.Rngs(0)), recipe, X)
    model = nn.MultiHeadDotProductAttention(2)
    linen = linen_api.Quantized(model, recipe)
    params, _ = linen_api.prepare(linen, full_init(model, X), X)
    for found in (nnx_api.explain(qmodel, X), linen_api.explain(linen, params, X)):
        assert {row.path for row in found} == {"QKᵀ", "PV"}
