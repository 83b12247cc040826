"""One suite for both APIs: every kind of layer by every scheme, in Linen, in NNX and in NumPy, has the same bits."""

from __future__ import annotations

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bits import assert_same
from flax import nnx

from jaxquant import qat as jax_qat
from jaxquant.flax import Lsq, LsqPlus, Pact, Recipe, Rule, linen_api, nnx_api
from jaxquant.flax.nnx_variables import set_value
from jaxquant.flax.site import LayerSpec, resolve
from jaxquant.qat import Trained
from jaxquant.qtensor import QTensor
from refquant import qat
from refquant.estimators import Ste
from tests.flax import linen_models, nnx_models
from tests.flax.api_support import api  # noqa: F401
from tests.flax.linen_models import full_init, inputs

X = inputs(4, 6, 8)
GRID = X.reshape(4, 6, 4, 2)
IDS = np.arange(6).reshape(2, 3) * 3 - 4
STATIC = {"input_scale": "static"}
SCHEMES = {
    "int8 token": {"weights": "int8", "inputs": "int8:token"},
    "int4 token": {"weights": "int4", "inputs": "int8:token"},
    "int3 per tensor": {"weights": "int3:tensor", "inputs": "int8:tensor"},
    "int2 token": {"weights": "int2", "inputs": "int8:token"},
    "w4a8 static": {"weights": "int4", "inputs": "int8:tensor", **STATIC},
    "w8a8 static asymmetric": {"weights": "int8:channel:asym", "inputs": "uint8:tensor:asym", **STATIC},
    "w4a4 asymmetric token": {"weights": "int4:asym", "inputs": "uint4:token:asym"},
    "float16 scales": {"weights": "int4:channel:sf16", "inputs": "int8:token:sf16"},
    "lsq": {"weights": "int4", "inputs": "int8:tensor", "weight_estimator": Lsq(), "input_estimator": Lsq()},
    "lsq plus": {
        "weights": "int3:asym", "inputs": "uint8:tensor:asym", "weight_estimator": LsqPlus(),
        "input_estimator": LsqPlus(),
    },
    "pact": {"weights": "int8", "inputs": "uint8:tensor:asym", "input_estimator": Pact()},
    "nf4": {"weights": "nf4"},
    "e4m3fn": {"weights": "e4m3fn"},
    "int4 groups": {"weights": "int4:g3", "inputs": "int8:token"},
    "nf4 groups": {"weights": "nf4:g3"},
}  # fmt: skip
#: Kinds with one summed axis that is no convolution's; the others are given channels where a scheme has groups.
GROUPED = ("dense", "batched", "einsum", "embed")
#: kind -> (what refquant runs, on what, further arguments, the shape that the bias takes)
KINDS: dict[str, tuple] = {
    "dense": (qat.dense, X, {}, None),
    "general": (qat.einsum, X, {"subscripts": "abc,bcde->ade"}, None),
    "batched": (qat.einsum, X, {"subscripts": "abc,acd->abd"}, (4, 1, 3)),
    "einsum": (qat.einsum, X, {"subscripts": "abd,dhe->abhe"}, None),
    "conv": (qat.conv, X, {"strides": 2, "padding": ((2, 0),)}, None),
    "dilated": (qat.conv, GRID, {"kernel_dilation": 2}, None),
    "depthwise": (
        qat.conv, np.pad(X, [(0, 0), (1, 1), (0, 0)], mode="wrap"), {"padding": 0, "feature_group_count": 8}, None,
    ),
    "transposed": (qat.conv, GRID, {"input_dilation": (2, 1), "padding": ((2, 1), (1, 0))}, None),
    "embed": (qat.embed, IDS, {}, None),
}  # fmt: skip
FLAX_KIND = {
    "dense": "linear", "general": "general", "batched": "general", "einsum": "einsum", "embed": "embed",
    "transposed": "conv_transpose",
}  # fmt: skip
SUMMED = {"general": (0, 1), "batched": (1,), "einsum": (0,)}
SUMMED_OF_X = {"general": (1, 2)}


def scheme(kind: str, turn: int) -> dict[str, Any]:
    """Every kind has another scheme; over all turns every kind meets every scheme."""
    found = SCHEMES[turn_scheme(kind, turn)]
    return found if kind in GROUPED else found | {"weights": found["weights"].replace(":g3", ":channel")}


def turn_scheme(kind: str, turn: int) -> str:
    return list(SCHEMES)[(list(KINDS).index(kind) + turn) % len(SCHEMES)]


def in_numpy(kind: str, site: LayerSpec, leaves: dict, dtype: str) -> dict[str, np.ndarray]:
    """What refquant gives for a layer; nothing where its product is a float one (LAY-7)."""
    function, x, options, bias_shape = KINDS[kind]
    options = dict(options)
    subscripts = (options.pop("subscripts"),) if "subscripts" in options else ()
    learned = tuple(np.asarray(leaves[name]) for name in site.weight_names)
    values = np.asarray(leaves.get("kernel", leaves.get("embedding")))
    weight = qat.Trained(values, learned, spec=site.weights, estimator=site.weight_estimator)
    if kind == "embed":
        found = {"rows": qat.embed(x, weight, dtype=dtype)}
        return found | (
            {} if site.inputs is None else {"attended": run(qat.attend, X, weight, None, site, leaves, dtype, (2,))}
        )
    if site.inputs is None:
        return {}
    bias = np.asarray(leaves["bias"])
    bias = bias if bias_shape is None else bias.reshape(bias_shape)
    summed = SUMMED_OF_X.get(kind, (x.ndim - 1,) if function is not qat.conv else tuple(range(1, x.ndim)))
    return {kind: run(function, x, weight, bias, site, leaves, dtype, summed, *subscripts, **options)}


def run(
    function: Any, x: Any, weight: Any, bias: Any, site: LayerSpec, leaves: dict, dtype: str, summed: tuple,
    *first: str, **options: Any,
) -> np.ndarray:  # fmt: skip
    given = dict(
        zip(("input_scale", "input_zero_point"), (np.asarray(leaves[n]) for n in site.input_names), strict=False)
    )
    if "inputs_zero_point" in site.input_names:
        given["input_zero_point"] = given["input_zero_point"].astype(np.int32)
    estimator = {} if isinstance(site.input_estimator, Ste) else {"input_estimator": site.input_estimator}
    inputs = site.inputs_for(x.ndim, summed)
    return function(*first, x, weight, bias, inputs=inputs, dtype=dtype, **given, **estimator, **options)


@pytest.mark.parametrize("turn", range(len(SCHEMES)))
def test_every_kind_by_every_scheme_differential(api: Any, turn: int) -> None:  # noqa: F811
    """Prepared, calibrated, run under jit, converted: the bits of NumPy where products are of integers."""
    rules, dtype = [Rule(kind, **scheme(kind, turn)) for kind in KINDS], [None, jnp.bfloat16][turn % 2]
    trial = api.prepare(api.float_model("Zoo", X, dtype=dtype), Recipe(*rules), X).calibrated(X)
    assert len(trial.report) == 9 and not trial.report.left_in_float
    got, converted, leaves = trial.run(X), trial.converted(), trial.leaves()
    right: dict[str, np.ndarray] = {}
    for kind, rule in zip(KINDS, rules, strict=True):
        own = {path.partition("/")[2]: leaf for path, leaf in leaves.items() if path.startswith(f"{kind}/")}
        kernel = "embedding" if kind == "embed" else "kernel"
        site = resolve(rule, FLAX_KIND.get(kind, "conv"), own[kernel].shape, summed=SUMMED.get(kind))
        right |= in_numpy(kind, site, own, "float32" if dtype is None else "bfloat16")
        assert isinstance(converted.leaves()[f"{kind}/{kernel}"], QTensor)
    assert len(right) >= 5
    for name, value in right.items():
        assert_same(np.asarray(got[name]), value, call=name)
    runs = {"jit": converted.run(X)}
    if turn == 0:
        runs |= {"eager": converted.run(X, jit=False), "constants": jax.jit(lambda x: converted.run(x, jit=False))(X)}
    for (how, found), name in itertools.product(runs.items(), got):
        assert_same(np.asarray(found[name]), np.asarray(got[name]), call=f"{how}, converted {name}")


def test_every_kind_meets_every_scheme() -> None:
    met = {(kind, turn_scheme(kind, turn)) for turn in range(len(SCHEMES)) for kind in KINDS}
    assert met == {(kind, scheme) for kind in KINDS for scheme in SCHEMES}
    assert len(met) == 9 * 15


CASTS = {
    "all": lambda path: True,
    "kernels": lambda path: path[-1].key in ("kernel", "embedding"),
}


@pytest.mark.parametrize("which", CASTS)
def test_cast_parameters_differential(which: str) -> None:
    """Modules that say float32, parameters that were cast: the arrays decide, in Linen, in NNX and in functions."""
    x, given = jnp.asarray(X, jnp.bfloat16), Recipe(Rule("**", weights="int4", inputs="int8:token"))

    def cast(path: tuple, leaf: Any) -> Any:
        return leaf.astype(jnp.bfloat16) if CASTS[which](path) else leaf

    floats = jax.tree_util.tree_map_with_path(cast, full_init(linen_models.Zoo(), X))
    qmodel = linen_api.Quantized(linen_models.Zoo(), given)
    params, _ = linen_api.prepare(qmodel, floats, x)
    zoo = nnx_models.Zoo()
    for path, variable in nnx.to_flat_state(nnx.state(zoo, nnx.Param)):
        set_value(variable, floats[path[0]][path[1]].reshape(variable.shape))
    model, _ = nnx_api.prepare(zoo, given, x)
    run = nnx.jit(lambda m, x: m(x))
    want, converted = (jax.jit(qmodel.apply)({"params": p}, x) for p in (params, linen_api.convert(qmodel, params)))
    got, also = run(model, x), run(nnx_api.convert(model), x)
    exact = jax.jit(linen_models.Zoo().apply)({"params": floats}, x), run(zoo, x)
    for name, value in want.items():
        assert (value.dtype, got[name].dtype) == (exact[0][name].dtype, exact[1][name].dtype), name
        assert_same(np.asarray(converted[name]), np.asarray(value), call=f"Linen {name}")
        assert_same(np.asarray(also[name]), np.asarray(got[name]), call=f"NNX {name}")
        if name not in ("rows", "attended"):  # nnx.Embed settles its dtype when it is made
            assert_same(np.asarray(got[name]), np.asarray(value), call=f"both {name}")
    layer = floats["dense"]
    spec = resolve(given.rules[0], "linear", layer["kernel"].shape)
    dtype = jnp.result_type(x, *layer.values()).name
    weight = Trained(layer["kernel"], spec=spec.weights)
    function = jax_qat.dense(x, weight, layer["bias"], inputs=spec.inputs, dtype=dtype)
    assert_same(np.asarray(want["dense"]), np.asarray(function))
