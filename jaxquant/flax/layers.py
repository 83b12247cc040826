"""Flax's layers as the operations of `jaxquant.qat`: what Linen and NNX share.  No arithmetic of its own.

`kernel` is the master parameter, converted a QTensor, or a Trained; `state` holds the layer's other leaves by name.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxquant import qat
from jaxquant._inputs import of_rank
from jaxquant.flax.site import LayerSpec
from jaxquant.qat import learned
from jaxquant.qat.trained import Trained, frozen
from jaxquant.qtensor import QTensor
from refquant import checks
from refquant.estimators import LsqPlus, Ste
from refquant.spec import QuantSpec, ScaleRule

State = Mapping[str, jax.Array]
Kernel = jax.Array | QTensor | Trained


@dataclass(frozen=True)
class Dtypes:
    """A Flax layer's dtypes.

    Attributes:
      compute: its `dtype`; None: what the inputs and parameters promote to.
      param: what its parameters promote to.
    """

    compute: Any = None
    param: Any = jnp.float32

    def result(self, x: jax.Array) -> str:
        """The name of the result's dtype, by Flax's promotion."""
        if self.compute is not None:
            return jnp.dtype(self.compute).name
        given = jnp.result_type(jax.dtypes.canonicalize_dtype(x.dtype), self.param)  # float64 of NumPy is none here
        return jnp.dtype(given if jnp.issubdtype(given, jnp.floating) else jnp.float32).name


def weight(site: LayerSpec, kernel: Kernel, state: State) -> Trained | QTensor:
    """What stands as the weight of a layer operation."""
    if isinstance(kernel, QTensor | Trained):
        return kernel
    scales = tuple(_trainable(site, state, name) for name in site.weight_names)
    return Trained(kernel, scales, spec=site.weights, estimator=site.weight_estimator)


def frozen_weight(site: LayerSpec, kernel: jax.Array, state: State) -> QTensor:
    """The codes that a converted layer stores."""
    return frozen(weight(site, kernel, state))


def frozen_site(site: LayerSpec) -> LayerSpec:
    """What the converted layer does: nothing is learned any more, so the scales are constants (LAY-12)."""
    inputs = site.inputs
    if isinstance(site.input_estimator, LsqPlus) and inputs.scale.zero == "none":
        inputs = replace(inputs, scale=ScaleRule(zero="int", storage=inputs.scale.storage))
    still = {"weight_estimator": Ste(), "input_estimator": Ste(), "start": None, "freeze_scales": None}
    return replace(site, inputs=inputs, **still)


def frozen_inputs(site: LayerSpec, state: State) -> dict[str, jax.Array]:
    """The input scale and zero point of the converted layer, by the names of `frozen_site`."""
    names = frozen_site(site).input_names
    if isinstance(site.input_estimator, Ste):
        return {name: state[name] for name in names}
    values = tuple(state[name] for name in site.input_names)
    scale, zero = learned.effective(site.input_estimator, values, site.inputs.fmt)
    zero = jnp.zeros(scale.shape, jnp.int32) if zero is None else zero
    return dict(zip(names, (scale, zero), strict=False))


def linear(site: LayerSpec, kernel: Kernel, bias: Any, state: State, x: jax.Array, *, dtypes: Dtypes) -> jax.Array:
    """nnx.Linear and nn.Dense."""
    rank = x.ndim
    options = input_options(site, state, rank, (rank - 1,)) | {"dtype": dtypes.result(x)}

    def quantized() -> jax.Array:
        return qat.dense(real(x, options), weight(site, kernel, state), bias, **options)

    return scheduled(site, state, quantized, lambda: _plain("...k,kn->...n", x, kernel, bias, options))


def general(
    site: LayerSpec,
    kernel: Kernel,
    bias: Any,
    state: State,
    x: jax.Array,
    *,
    axis: Sequence[int],
    batch_axis: Sequence[int] = (),
    dtypes: Dtypes,
) -> jax.Array:
    """nnx.LinearGeneral and nn.DenseGeneral; the kernel is (*batch, *summed, *features)."""
    summed, batch = ([a % x.ndim for a in axes] for axes in (axis, batch_axis))
    if bias is not None:
        lead = [x.shape[a] if a in batch else 1 for a in range(x.ndim) if a not in summed]
        bias = bias.reshape(*lead, *bias.shape[len(batch) :])
    subscripts = general_subscripts(x.ndim, summed, batch, len(_shape(kernel)))
    return einsum(site, kernel, bias, state, x, subscripts=subscripts, dtypes=dtypes)


def general_subscripts(rank: int, summed: Sequence[int], batch: Sequence[int], kernel_rank: int) -> str:
    """A general dense layer as an einsum: the result is (*batch, *rest of x, *features)."""
    letters = [chr(ord("a") + i) for i in range(rank + kernel_rank)]
    features = letters[rank : rank + kernel_rank - len(batch) - len(summed)]
    left = letters[:rank]
    rest = [left[a] for a in range(rank) if a not in (*summed, *batch)]
    lead, inner = [left[a] for a in batch], [left[a] for a in summed]
    terms = (left, lead + inner + features, lead + rest + features)
    return "{},{}->{}".format(*map("".join, terms))


def einsum(
    site: LayerSpec, kernel: Kernel, bias: Any, state: State, x: jax.Array, *, subscripts: str, dtypes: Dtypes
) -> jax.Array:
    """nnx.Einsum and nn.Einsum; the bias as it broadcasts to the result."""
    options = input_options(site, state, x.ndim, summed_of_x(subscripts, x.ndim)) | {"dtype": dtypes.result(x)}

    def quantized() -> jax.Array:
        return qat.einsum(subscripts, real(x, options), weight(site, kernel, state), bias, **options)

    return scheduled(site, state, quantized, lambda: _plain(subscripts, x, kernel, bias, options))


def summed_of_x(subscripts: str, rank: int) -> tuple[int, ...]:
    """The axes of x that "x,kernel->result" sums."""
    left, _, out = subscripts.replace(" ", "").partition("->")
    term = left.partition(",")[0]
    hidden = "?" * (rank - len(term.replace("...", "")))
    term = term.replace("...", hidden)
    return tuple(axis for axis, letter in enumerate(term) if letter != "?" and letter not in out)


def attention_einsum(site: LayerSpec) -> Callable[..., jax.Array]:
    """An einsum of two inputs, both quantized on the fly: the products QK^T and PV of an attention."""

    def product(subscripts: str, a: jax.Array, b: jax.Array, **_: Any) -> jax.Array:
        left, right = attention_specs(site, subscripts, a, b)
        dtype = jnp.result_type(a, b).name
        return qat.einsum(subscripts, a, Trained(b, spec=right), inputs=left, dtype=dtype)

    return product


def attention_specs(site: LayerSpec, subscripts: str, a: jax.Array, b: jax.Array) -> tuple[QuantSpec, QuantSpec]:
    """How each operand of such a product is quantized."""
    left = site.inputs_for(a.ndim, summed_of_x(subscripts, a.ndim))
    return left, site.inputs_for(b.ndim, summed_of_x(_swapped(subscripts), b.ndim))


def embed(site: LayerSpec, table: Kernel, state: State, ids: jax.Array, *, dtypes: Dtypes) -> jax.Array:
    """nnx.Embed and nn.Embed."""
    dtype = jnp.dtype(dtypes.compute or dtypes.param).name

    def plain() -> jax.Array:
        return jnp.take(table.astype(dtype), ids, axis=0)

    return scheduled(site, state, lambda: qat.embed(ids, weight(site, table, state), dtype=dtype), plain)


def attend(site: LayerSpec, table: Kernel, state: State, x: jax.Array, *, dtypes: Dtypes) -> jax.Array:
    """The product with every row of an embedding."""
    options = input_options(site, state, x.ndim, (x.ndim - 1,)) | {"dtype": dtypes.result(x)}

    def quantized() -> jax.Array:
        return qat.attend(real(x, options), weight(site, table, state), **options)

    return scheduled(site, state, quantized, lambda: _plain("...f,vf->...v", x, table, None, options))


def input_options(site: LayerSpec, state: State, rank: int, summed: tuple[int, ...]) -> dict[str, Any]:
    """The input options of a layer operation."""
    options: dict[str, Any] = {"inputs": site.inputs_for(rank, summed)}
    for option, name in zip(("input_scale", "input_zero_point"), site.input_names, strict=False):
        options[option] = state[name] if name == "inputs_zero_point" else _trainable(site, state, name)
    return options | {"input_estimator": site.input_estimator}


def _trainable(site: LayerSpec, state: State, name: str) -> jax.Array:
    """A learned scale; from `freeze_scales` on no gradient reaches it."""
    if site.freeze_scales is None or "step" not in state:
        return state[name]
    return jnp.where(state["step"] >= site.freeze_scales, lax.stop_gradient(state[name]), state[name])


def scheduled(site: LayerSpec, state: State, quantized: Callable[[], Any], plain: Callable[[], Any]) -> jax.Array:
    """The float layer before step `start`, without compiling anew."""
    if not site.start or "step" not in state:
        return quantized()
    return lax.cond(state["step"] >= site.start, quantized, plain)


def _plain(subscripts: str, x: jax.Array, kernel: jax.Array, bias: Any, options: dict[str, Any]) -> jax.Array:
    """Flax's own float layer."""
    dtype = options["dtype"]
    y = jnp.einsum(subscripts, x.astype(dtype), kernel.astype(dtype))
    return y if bias is None else y + of_rank(y.ndim, bias.astype(dtype))


def real(x: jax.Array, options: dict[str, Any]) -> jax.Array:
    """Flax takes integers as inputs too."""
    return x if str(x.dtype) in checks.REAL else x.astype(options["dtype"])


def _shape(kernel: Kernel) -> tuple[int, ...]:
    return tuple(kernel.shape)


def _swapped(subscripts: str) -> str:
    left, arrow, out = subscripts.partition("->")
    a, _, b = left.partition(",")
    return f"{b},{a}{arrow}{out}"
