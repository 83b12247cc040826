"""Attention and tied tables in both APIs: products on codes where a rule asks for them, floats while others observe."""

from __future__ import annotations

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bits import assert_same
from flax import linen as nn
from flax import nnx

from jaxquant.flax import Recipe, Rule
from jaxquant.flax.attention import QuantizedAttention
from jaxquant.flax.mark import is_mark
from jaxquant.flax.site import resolve_attention
from jaxquant.qtensor import QTensor
from tests.flax.api_support import api  # noqa: F401
from tests.flax.linen_models import inputs

IDS = jnp.arange(12).reshape(2, 6) % 13
INT8 = {"weights": "int8", "inputs": "int8"}


def test_tied_attention_differential_converted_is_trained(api: Any) -> None:  # noqa: F811
    """A table that is looked up and attended, static; and a layer of another method."""
    recipe = Recipe(
        Rule("table", weights="int3", inputs="int8:tensor", input_scale="static"),
        Rule("**", weights="int4", inputs="int8"),
        Rule("attention", attention="int8:token"),
    )
    trial = api.prepare(api.float_model("Tied", IDS), recipe, IDS, methods={"pooled": IDS}).calibrated(IDS)
    converted, want = trial.converted(), trial.run(IDS)
    assert np.isfinite(want).all()
    assert_same(converted.run(IDS), want)
    assert_same(converted.run(IDS, method="pooled"), trial.run(IDS, method="pooled"))
    leaves = converted.leaves()
    for path in ("table/embedding", "only/kernel", "attention/query/kernel"):
        assert isinstance(leaves[path], QTensor) and leaves[path].codes.dtype == jnp.int8
    table = {path.partition("/")[2] for path in trial.leaves() if path.startswith("table/")}
    zero = {"inputs_zero_point"} if api.name == "linen" else set()  # NNX has it for asymmetric formats alone
    assert {name for name in table if not is_mark(name)} == {"embedding", "inputs_scale"} | zero


def test_attention_differential_products_are_near_the_float_ones(api: Any) -> None:  # noqa: F811
    floats, h = api.float_model("Tied", IDS), jnp.asarray(inputs(2, 6, 8))
    on, off = (
        api.prepare(floats, Recipe(Rule("**", **INT8, **options)), IDS, methods={"pooled": IDS})
        for options in ({"attention": "int8"}, {})
    )
    products = [[row for row in trial.report if row.kind in ("QKᵀ", "PV")] for trial in (on, off)]
    assert [row.inputs for row in products[0]] == ["int8:token dynamic"] * 2
    assert [row.why for row in products[1]] == ["off unless a rule has attention"] * 2
    assert_same(on.converted().run(IDS), on.run(IDS))
    exact = off.run(h, method="attended")
    for mask in (None, nnx.make_causal_mask(IDS)):
        near, far = (trial.run(h, mask, method="attended") for trial in (on, off))
        assert 0 < np.linalg.norm(near - far) < 0.1 * np.linalg.norm(exact)
    assert np.any(on.gradients(IDS)["attention/query/kernel"])


def test_reports_property_name_layers_of_other_methods(api: Any) -> None:  # noqa: F811
    recipe, floats = Recipe(Rule("**", **INT8)), api.float_model("Tied", IDS)
    report = api.prepare(floats, recipe, IDS).report
    unseen = re.compile("not (reached|run)")
    assert unseen.search(report["only"].why) and report["norm"].why == "a norm"
    assert not unseen.search(str(api.prepare(floats, recipe, IDS, methods={"pooled": IDS}).report))


def test_observe_property_runs_attention_in_float(api: Any) -> None:  # noqa: F811
    """The projection behind the products sees what it sees without them; afterwards they are on codes."""
    x, floats = inputs(6, 8), api.own_model("one", inputs(6, 8), "attention", {})
    static = {"weights": "int8", "inputs": "int8:tensor", "input_scale": "static"}
    on, off = (
        api.prepare(floats, Recipe(Rule("**", **static, **options)), x).calibrated(x)
        for options in ({"attention": "int4:tensor"}, {})
    )
    assert_same(on.leaves()["layer/out/inputs_scale"], off.leaves()["layer/out/inputs_scale"])
    assert np.any(np.asarray(on.run(x)) != np.asarray(off.run(x)))


@pytest.mark.parametrize("lead", [(), (2,), (2, 3)])
@pytest.mark.parametrize("broadcast", [False, True])
def test_dropout_differential_has_the_mask_of_flax(lead: tuple, broadcast: bool) -> None:
    """Values are the unit vectors, so that the result shows which weights were dropped."""
    q = jnp.asarray(inputs(*lead, 5, 4, 8)) / 8
    v = jnp.broadcast_to(jnp.eye(5, 8)[:, None], (*lead, 5, 4, 8))
    options = {"broadcast_dropout": broadcast, "dropout_rng": jax.random.key(0), "dropout_rate": 0.5}
    products = QuantizedAttention(resolve_attention(Rule("**", attention="int8")))
    got = products(q, q, v, **options)
    plains = (nnx.dot_product_attention, *([nn.dot_product_attention] if len(lead) == 2 else []))
    for plain in plains:
        assert_same(np.asarray(got) == 0, np.asarray(plain(q, q, v, **options)) == 0)
