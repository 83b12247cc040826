"""What the products QKᵀ and PV of NNX's attentions lose, noted while `explain` runs its clone of a model."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxquant.flax import measures
from jaxquant.flax.attention import PRODUCTS
from jaxquant.flax.nnx_layers import QuantMultiHeadAttention
from jaxquant.flax.nnx_variables import Explained, set_value, value_of
from jaxquant.flax.nnx_walk import expected_shape


class ExplainedAttention(QuantMultiHeadAttention):
    """An attention that adds up, by product, what it lost.

    Attributes:
      explained: a dict of Measures.
    """

    explained: Explained

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """As nnx.MultiHeadAttention; its own Variable is changed here, where a transform around it sees that."""
        sums, products = dict(value_of(self.explained)), self.attention_fn

        def note(name: str, lost: measures.Measures) -> None:
            sums[name] = measures.add(sums[name], lost)

        self.attention_fn = replace(products, note=note)
        try:
            y = super().__call__(*args, **kwargs)
        finally:
            self.attention_fn = products
        set_value(self.explained, sums)
        return y


def explained(model: nnx.Module) -> dict[str, ExplainedAttention]:
    """The attentions of a prepared model whose products run on codes, by path; retyped in place."""
    nodes = nnx.iter_graph(model)
    found = {"/".join(map(str, path)): one for path, one in nodes if isinstance(one, QuantMultiHeadAttention)}
    for one in found.values():
        shape = value_of(one.query.kernel).shape
        lead = tuple(shape[: len(shape) - len(expected_shape(one.query, nnx.LinearGeneral))])  # stacked for a scan
        sums = jax.tree.map(lambda v, lead=lead: jnp.broadcast_to(v, (*lead, *v.shape)), measures.no_product())
        one.explained = Explained(dict.fromkeys(PRODUCTS, sums))
        object.__setattr__(one, "__class__", ExplainedAttention)
    return found


def products(found: dict[str, ExplainedAttention]) -> list[tuple[str, measures.Measures]]:
    """The sums of every product, by the attention's path and the product's name."""
    each = [(path, value_of(one.explained)) for path, one in found.items()]
    return [(f"{path} {name}".strip(), sums[name]) for path, sums in each for name in PRODUCTS]
