"""The products QKᵀ and PV of Linen's attentions: off unless a rule asks for them."""

from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

from flax import linen as nn

from jaxquant.flax.attention import PRODUCTS, QuantizedAttention
from jaxquant.flax.names import named
from jaxquant.flax.recipe import Place, Recipe
from jaxquant.flax.report import Row
from jaxquant.flax.site import LayerSpec, resolve_attention

#: Exact classes, as for layers.
ATTENTIONS = (nn.MultiHeadDotProductAttention, nn.MultiHeadAttention, nn.SelfAttention)
HOOKS = ("attention_fn", "qk_attn_weights_einsum_cls", "attn_weights_value_einsum_cls")


def attention_place(module: nn.Module) -> Place:
    """What a rule sees of an attention."""
    return Place("/".join(module.path), module, attention=True)


def attention_site(recipe: Recipe, module: nn.Module) -> LayerSpec | None:
    """How the products are quantized; None leaves them in float.

    Raises:
      ValueError: the user has set another attention.
    """
    rule = recipe.rule_for(attention_place(module))
    if rule is None or rule.keep is not None:
        return None
    for name in HOOKS:
        default = getattr(type(module), name, None)
        if getattr(module, name, None) is not default:
            raise ValueError(
                f"{named('/'.join(module.path))}: {type(module).__name__} has {name} set, need its default or a rule "
                "that keeps the layer in float (quantization would replace it)"
            )
    return resolve_attention(rule)


def attention_rows(recipe: Recipe, module: nn.Module, site: LayerSpec | None) -> dict[str, Row]:
    """Two lines of a report."""
    place = attention_place(module)
    rule = recipe.rule_for(place)
    why = recipe.why(rule) if rule else "off unless a rule has attention"
    text = "" if site is None else site.inputs_text
    return {f"{place.path} {product}": Row(place.path, product, "", text, why) for product in PRODUCTS}


def attending(module: nn.Module, site: LayerSpec | None, call: Callable[[], Any], note: Any = None) -> Any:
    """The attention's call with its products on codes.

    The field is set on the bound copy that lives for one apply, and only while its method runs.

    Args:
      module: the attention, bound.
      site: how its products are quantized; None: not at all.
      call: its call.
      note: told of every product, as QuantizedAttention has it.
    """
    if site is None:
        return call()
    with _field(module, "attention_fn", QuantizedAttention(site, note, "/".join(module.path))):
        return call()


@contextmanager
def _field(module: nn.Module, name: str, value: Any) -> Any:
    before = getattr(module, name)
    object.__setattr__(module, name, value)
    try:
        yield
    finally:
        object.__setattr__(module, name, before)
