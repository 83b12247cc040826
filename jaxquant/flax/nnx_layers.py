"""Flax NNX's layers on codes: subclasses to which the modules of a prepared clone are retyped.

A retyped module keeps its parameters, its attributes and its place in the model; `isinstance`, `.kernel`, shared
modules and tied tables go on working.  Beside them it holds `site` (what it does, static), `path` and `mode` (static),
and the leaves that the site names.  What is added are functions, not methods: nnx.tabulate has a row for each method.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxquant.flax import convolutions, layers, watch
from jaxquant.flax.attention import QuantizedAttention
from jaxquant.flax.labels import FROZEN, SCALES
from jaxquant.flax.layers import Dtypes
from jaxquant.flax.mark import check_mark, is_mark, mark_of, wrong_codes, wrong_leaf
from jaxquant.flax.names import named
from jaxquant.flax.nnx_variables import Codes, companions, leaves_of, value_of
from jaxquant.flax.site import LayerSpec
from jaxquant.qat.trained import Trained
from jaxquant.qtensor import QTensor

Thunk = Callable[[], jax.Array]
LEAVES = (*SCALES, *FROZEN)


class Quantized(nnx.Module):
    """What all quantized layers share.

    Attributes:
      site: what the layer does.
      path: its (first) place in the model.
      mode: "quantized"; for a while "observe" or "explain".
      reached: a set that notes the path of a layer that is called, or None.
      handoff: what it leaves for a batch norm that is folded into it, or None.
    """

    site: LayerSpec
    path: str
    mode: str = "quantized"
    reached: watch.Reached | None = None
    handoff: Any = None
    kernel_name = "kernel"

    @property
    def weight(self) -> Any:
        """The master kernel, or the QTensor of a converted layer."""
        return value_of(getattr(self, self.kernel_name))

    @property
    def is_table(self) -> bool:
        """Whether it is given ids, and inputs to multiply only where the model attends."""
        return self.kernel_name == "embedding"

    @property
    def converted(self) -> bool:
        """Whether the kernel is stored as codes."""
        return isinstance(getattr(self, self.kernel_name), Codes)

    @property
    def dtypes(self) -> Dtypes:
        """Its dtype, and what its parameters promote to: their own dtypes, as Flax's promotion reads them."""
        if self.converted:
            return Dtypes(self.dtype, self.param_dtype)
        bias = value_of(getattr(self, "bias", None))
        return Dtypes(self.dtype, jnp.result_type(self.weight.dtype, *([] if bias is None else [bias.dtype])))


def run(layer: Quantized, x: jax.Array, quantized: Thunk, plain: Thunk) -> jax.Array:
    """A layer in its present mode; an error names the layer.

    Args:
      layer: the layer.
      x: the input.
      quantized: the layer on codes.
      plain: the float layer on the same input.
    """
    if layer.reached is not None:
        layer.reached.paths.add(layer.path)
    try:
        check_leaves(layer)
        if layer.handoff is not None:
            return layer.handoff.leave(layer, jnp.asarray(x), plain)
        if layer.mode == "quantized":
            return quantized()
        return watch.MODES[layer.mode](layer, jnp.asarray(x), quantized, plain)  # NumPy's float64 is float32 here
    except (TypeError, ValueError) as error:
        if type(error) not in (TypeError, ValueError) or str(error).startswith("layer "):
            raise
        raise type(error)(f"{named(layer.path)}: {error}") from error


def check_leaves(layer: Quantized, *, attends: bool = False) -> None:
    """Refuse a state that was made for another recipe.

    Args:
      layer: the layer.
      attends: whether it is a table that multiplies: to be looked up it needs no input leaves.
    Raises:
      ValueError: a leaf is missing, too many or not the kernel's own, or the kernel is not of the layer's kind: codes
        of its spec, or floats.
    """
    weight, site = layer.weight, layer.site
    codes, name = isinstance(weight, QTensor | Trained), layer.kernel_name
    if codes != layer.converted or (codes and weight.spec != site.weights):
        own = site.weights if layer.converted else None
        raise ValueError(wrong_codes(layer.path, name, weight.spec if codes else None, own))
    there, need = {name for name in LEAVES if hasattr(layer, name)}, set(site.state_names)
    if layer.is_table and not attends and there.isdisjoint(site.input_names):
        need -= set(site.input_names)
    if wrong := there ^ need:
        raise ValueError(wrong_leaf(layer.path, name, min(wrong), need))
    foreign = need - set(companions(getattr(layer, name)))
    if foreign:
        raise ValueError(
            f"{named(layer.path)}: the {name} is from a state without {min(foreign)!r}, need one with "
            f"{sorted(need)} (a checkpoint of another recipe, or of the float model, which is restored "
            "before prepare)"
        )
    told = [mark for mark in companions(getattr(layer, name)) if is_mark(mark)]
    names = vars(layer) if mark_of(site) in told or not told else told  # nnx.merge names by the graph, not by the state
    check_mark(layer.path, name, site, names, needed=bool(need))


def operate(layer: Quantized, kernel: Any, bias: Any, inputs: jax.Array, dtypes: Dtypes) -> jax.Array:
    """A linear layer or a convolution with a given kernel and bias."""
    operation, names = OPERATIONS[type(layer)]
    options = {name: getattr(layer, name) for name in names}
    return operation(layer.site, kernel, bias, leaves_of(layer), inputs, **options, dtypes=dtypes)


class QuantLinear(Quantized, nnx.Linear):
    """nnx.Linear on codes."""

    def __call__(self, inputs: jax.Array, out_sharding: Any = None) -> jax.Array:
        """As nnx.Linear; bits by the layer contract (specs/60-layers.md)."""
        no_sharding(out_sharding)

        def quantized() -> jax.Array:
            return operate(self, self.weight, value_of(self.bias), inputs, self.dtypes)

        return run(self, inputs, quantized, lambda: nnx.Linear.__call__(self, inputs))


class QuantLinearGeneral(Quantized, nnx.LinearGeneral):
    """nnx.LinearGeneral on codes."""

    def __call__(self, inputs: jax.Array, out_sharding: Any = None) -> jax.Array:
        """As nnx.LinearGeneral."""
        no_sharding(out_sharding)
        axis = sorted(a % inputs.ndim for a in self.axis)
        batch = sorted(a % inputs.ndim for a in self.batch_axis)

        def quantized() -> jax.Array:
            return layers.general(
                self.site, self.weight, value_of(self.bias), leaves_of(self), inputs,
                axis=axis, batch_axis=batch, dtypes=self.dtypes,
            )  # fmt: skip

        return run(self, inputs, quantized, lambda: nnx.LinearGeneral.__call__(self, inputs))


class QuantEinsum(Quantized, nnx.Einsum):
    """nnx.Einsum on codes."""

    def __call__(self, inputs: jax.Array, einsum_str: str | None = None, out_sharding: Any = None) -> jax.Array:
        """As nnx.Einsum; the subscripts are the layer's own, by which its scales were laid out."""
        no_sharding(out_sharding)
        subscripts = self.einsum_str.replace(" ", "")

        def quantized() -> jax.Array:
            if einsum_str is not None:
                raise ValueError(f"einsum: einsum_str at the call, need the layer's own {self.einsum_str!r}")
            bias = value_of(self.bias)
            if bias is not None:
                like = jax.ShapeDtypeStruct(self.kernel_shape, inputs.dtype)
                bias = bias.reshape(self._infer_broadcasted_bias_shape(subscripts, inputs, like))
            return layers.einsum(
                self.site, self.weight, bias, leaves_of(self), inputs, subscripts=subscripts, dtypes=self.dtypes
            )

        return run(self, inputs, quantized, lambda: nnx.Einsum.__call__(self, inputs, einsum_str))


class QuantConv(Quantized, nnx.Conv):
    """nnx.Conv on codes."""

    def __call__(self, inputs: jax.Array, out_sharding: Any = None) -> jax.Array:
        """As nnx.Conv."""
        no_sharding(out_sharding)

        def quantized() -> jax.Array:
            return operate(self, self.weight, value_of(self.bias), inputs, self.dtypes)

        return run(self, inputs, quantized, lambda: nnx.Conv.__call__(self, inputs))


class QuantConvTranspose(Quantized, nnx.ConvTranspose):
    """nnx.ConvTranspose on codes."""

    def __call__(self, inputs: jax.Array) -> jax.Array:
        """As nnx.ConvTranspose."""

        def quantized() -> jax.Array:
            return operate(self, self.weight, value_of(self.bias), inputs, self.dtypes)

        return run(self, inputs, quantized, lambda: nnx.ConvTranspose.__call__(self, inputs))


class QuantEmbed(Quantized, nnx.Embed):
    """nnx.Embed on codes; `attend` takes integers where the rule gives inputs."""

    kernel_name = "embedding"

    def __call__(self, inputs: jax.Array, out_sharding: Any = None) -> jax.Array:
        """As nnx.Embed: rows of the dequantized table."""
        no_sharding(out_sharding)
        if not jnp.issubdtype(inputs.dtype, jnp.integer):
            raise ValueError("Input type must be an integer or unsigned integer.")  # Flax's own words
        ids = jnp.zeros_like(inputs) if self.num_embeddings == 1 else inputs  # Flax finds every id in a single row

        def quantized() -> jax.Array:
            return layers.embed(self.site, self.weight, leaves_of(self), ids, dtypes=self.dtypes)

        return run(self, inputs, quantized, lambda: nnx.Embed.__call__(self, inputs))

    def attend(self, query: jax.Array, out_sharding: Any = None) -> jax.Array:
        """As nnx.Embed.attend."""
        no_sharding(out_sharding)

        def quantized() -> jax.Array:
            check_leaves(self, attends=True)
            y = layers.attend(self.site, self.weight, leaves_of(self), query, dtypes=self.dtypes)
            if self.reached is not None:
                self.reached.fed.add(self.path)
            return y

        return run(self, query, quantized, lambda: nnx.Embed.attend(self, query))


class QuantMultiHeadAttention(nnx.MultiHeadAttention):
    """nnx.MultiHeadAttention whose products QKᵀ and PV run on codes (its `attention_fn`)."""

    attention_fn: QuantizedAttention


CONV = ("strides", "padding", "input_dilation", "kernel_dilation", "feature_group_count")
#: The operation of a layer that a norm may be folded into, and the attributes that are its options.
OPERATIONS = {
    QuantLinear: (layers.linear, ()),
    QuantConv: (convolutions.conv, CONV),
    QuantConvTranspose: (convolutions.conv_transpose, ("strides", "padding", "kernel_dilation", "transpose_kernel")),
}
RETYPED = {
    nnx.Linear: QuantLinear,
    nnx.LinearGeneral: QuantLinearGeneral,
    nnx.Einsum: QuantEinsum,
    nnx.Conv: QuantConv,
    nnx.ConvTranspose: QuantConvTranspose,
    nnx.Embed: QuantEmbed,
    nnx.MultiHeadAttention: QuantMultiHeadAttention,
}


def no_sharding(out_sharding: Any) -> None:
    """Refuse an option that the layers on codes do not have.

    Raises:
      ValueError: out_sharding is given.
    """
    if out_sharding is not None:
        raise ValueError(
            f"out_sharding is {out_sharding!r}, need None and jax.sharding.reshard or a constraint on the result "
            "(codes are multiplied with automatic axes)"
        )


def attentions_of(model: nnx.Module) -> list[QuantMultiHeadAttention]:
    """Every attention whose products run on codes, each once, by path."""
    return [module for _, module in nnx.iter_graph(model) if isinstance(module, QuantMultiHeadAttention)]


def layers_of(model: nnx.Module) -> list[Any]:
    """Every quantized layer of a prepared or converted model, each once, by path."""
    return [module for _, module in nnx.iter_graph(model) if isinstance(module, Quantized)]
