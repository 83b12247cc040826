"""The products QKᵀ and PV of an attention on codes, both operands quantized on the fly."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp

from jaxquant.flax import layers, measures
from jaxquant.flax.names import named
from jaxquant.flax.site import LayerSpec

PRODUCTS = ("QKᵀ", "PV")


@dataclass(frozen=True)
class QuantizedAttention:
    """A drop-in for Flax's dot_product_attention: float softmax between two integer products.

    Attributes:
      site: how both operands of both products are quantized.
      note: told of every product, by its name in PRODUCTS, and what it lost; None: nothing is measured.
      path: of the attention, for messages alone.
    """

    site: LayerSpec
    note: Callable[[str, measures.Measures], None] | None = None
    path: str = field(default="", compare=False)

    def __call__(
        self,
        query: jax.Array,
        key: jax.Array,
        value: jax.Array,
        bias: jax.Array | None = None,
        mask: jax.Array | None = None,
        *,
        broadcast_dropout: bool = True,
        dropout_rng: jax.Array | None = None,
        dropout_rate: float = 0.0,
        deterministic: bool = False,
        dtype: Any = None,
        is_causal: bool = False,
        module: Any = None,
        **_: Any,
    ) -> jax.Array:
        """Attention of query (..., Q, H, D) over key and value (..., K, H or fewer, D); the same shape as query.

        Raises:
          ValueError: the weights are to be sown (`module`), or the sums of a product might not fit int32.
        """
        if module is not None:
            raise ValueError("attention: sow_weights is set, need False (the weights of integer products are not kept)")
        dtype = dtype or jnp.result_type(query, key, value)
        query, key, value = (v.astype(dtype) for v in (query, key, value))
        lead, (heads, depth) = query.shape[:-3], query.shape[-2:]
        query, key, value = (v.reshape(-1, *v.shape[-3:]) for v in (query, key, value))
        query = query / jnp.sqrt(depth).astype(dtype)
        query = query.reshape(*query.shape[:2], key.shape[-2], heads // key.shape[-2], depth)
        weights = self._product("QKᵀ", "bqhgd,bkhd->bhgqk", query, key)
        weights = weights.reshape(*lead, heads, *weights.shape[-2:])
        weights = jax.nn.softmax(_masked(weights, bias, mask, is_causal)).astype(dtype)
        if not deterministic and dropout_rate > 0.0:
            weights = _dropped(weights, dropout_rng, dropout_rate, broadcast_dropout)
        weights = weights.reshape(-1, key.shape[-2], heads // key.shape[-2], *weights.shape[-2:])
        out = self._product("PV", "bhgqk,bkhd->bqhgd", weights, value)
        return out.reshape(*lead, out.shape[1], heads, value.shape[-1])

    def _product(self, name: str, subscripts: str, a: jax.Array, b: jax.Array) -> jax.Array:
        try:
            y = layers.attention_einsum(self.site)(subscripts, a, b)
        except (TypeError, ValueError) as error:
            if type(error) not in (TypeError, ValueError):
                raise
            raise type(error)(f"{named(self.path)}: {name}, {error}") from error
        if self.note is not None:
            self.note(name, measures.measure_product(self.site, subscripts, a, b, y))
        return y


def _masked(weights: jax.Array, bias: jax.Array | None, mask: jax.Array | None, is_causal: bool) -> jax.Array:
    if bias is not None:
        weights = weights + bias
    lowest = jnp.finfo(weights.dtype).min
    if is_causal:
        weights = jnp.where(jnp.tril(jnp.ones(weights.shape[-2:], bool)), weights, lowest)
    return weights if mask is None else jnp.where(mask, weights, lowest)


def _dropped(weights: jax.Array, rng: jax.Array, rate: float, broadcast: bool) -> jax.Array:
    """Flax's dropout of (..., H, Q, K); its mask is shared along the leading axes and the heads if it is broadcast."""
    shape = (*(1,) * (weights.ndim - 2), *weights.shape[-2:]) if broadcast else weights.shape
    keep = jax.random.bernoulli(rng, 1.0 - rate, shape)
    return weights * (keep.astype(weights.dtype) / jnp.asarray(1.0 - rate, weights.dtype))
