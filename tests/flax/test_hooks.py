"""A layer whose operation the user has replaced is refused by the hook's name, in both APIs."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxquant.flax import Recipe, Rule
from tests.flax.api_support import APIS
from tests.flax.linen_models import inputs

X = inputs(4, 6, 8)
SHARED = {
    ("dense", "dot_general"): lambda *args, **options: jax.lax.dot_general(*args, **options),
    ("dense", "promote_dtype"): lambda *args, dtype: args[0] if len(args) == 1 else args,
    ("general", "dot_general_cls"): lambda: jax.lax.dot_general,
    ("einsum", "preferred_element_type"): jnp.float32,
    ("conv", "conv_general_dilated"): lambda *args, **options: jax.lax.conv_general_dilated(*args, **options),
    ("conv", "mask"): np.ones((1, 8, 2), np.float32),
    ("transposed", "mask"): np.ones((1, 8, 2), np.float32),
    ("transposed", "preferred_element_type"): jnp.float32,
    ("attention", "attention_fn"): lambda query, key, value, **_: value,
}
#: Linen wants both or none.
EINSUMS = ("qk_attn_weights_einsum_cls", "attn_weights_value_einsum_cls")
#: What one API's layers have alone.
OWN = {
    "linen": {
        ("conv", "conv_general_dilated_cls"): lambda: jax.lax.conv_general_dilated,
        ("attention", "qk_attn_weights_einsum_cls"): {name: lambda: jnp.einsum for name in EINSUMS},
    },
    "nnx": {
        ("dense", "preferred_element_type"): jnp.float32,
        ("conv", "preferred_element_type"): jnp.float32,
        ("einsum", "einsum_op"): lambda *args, **options: jnp.einsum(*args, **options),
    },
}
CASES = [
    pytest.param(one, *place, hook, id=f"{one.name}-{'-'.join(place)}")
    for one in APIS
    for place, hook in (SHARED | OWN[one.name]).items()
]


@pytest.mark.parametrize(("api", "kind", "name", "hook"), CASES)
def test_hooks_property_are_refused_by_name(api: Any, kind: str, name: str, hook: Any) -> None:
    floats = api.own_model("one", X, kind, hook if isinstance(hook, dict) else {name: hook})
    attention = {"attention": "int8"} if kind == "attention" else {}
    text = rf"layer 'layer': \w+ has {name} set, need its default or a rule that keeps the layer in float"
    with pytest.raises(ValueError, match=text):
        api.prepare(floats, Recipe(Rule("**", weights="int8", **attention)), X)
    api.prepare(floats, Recipe(Rule("layer", keep="a hook")), X)
    if kind == "attention":  # the products stay in float unless a rule asks for them
        api.prepare(floats, Recipe(Rule("**", weights="int8")), X)
