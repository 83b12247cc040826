"""Flax's convolutions as the operation of `jaxquant.qat`; beside `layers`, by the same arguments."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxquant import qat
from jaxquant._inputs import of_rank
from jaxquant.flax.layers import Dtypes, Kernel, State, input_options, real, scheduled, weight
from jaxquant.flax.padding import circular_transposed, each, pad_inputs, transposed_padding
from jaxquant.flax.site import LayerSpec
from jaxquant.qat.trained import Trained
from jaxquant.qtensor import QTensor
from refquant.granularity import PerAxis, PerGroup, PerTensor


def conv(
    site: LayerSpec,
    kernel: Kernel,
    bias: Any,
    state: State,
    x: jax.Array,
    *,
    strides: Any = 1,
    padding: Any = "SAME",
    input_dilation: Any = 1,
    kernel_dilation: Any = 1,
    feature_group_count: int = 1,
    dtypes: Dtypes,
) -> jax.Array:
    """nnx.Conv and nn.Conv, any number of leading axes; padding also "CIRCULAR", "REFLECT" and "CAUSAL"."""
    taps = tuple(kernel.shape)[:-2]
    rank = len(taps)
    lead, x = x.shape[: x.ndim - rank - 1], x.reshape(-1, *x.shape[x.ndim - rank - 1 :])
    strides, input_dilation, kernel_dilation = (each(v, rank) for v in (strides, input_dilation, kernel_dilation))
    x, padding = pad_inputs(x, padding, taps, kernel_dilation, input_dilation)
    window = {
        "strides": strides, "padding": padding, "input_dilation": input_dilation, "kernel_dilation": kernel_dilation,
        "feature_group_count": feature_group_count,
    }  # fmt: skip
    y = _conv(site, kernel, bias, state, x, window, dtypes)
    return y.reshape(*lead, *y.shape[1:])


def conv_transpose(
    site: LayerSpec,
    kernel: Kernel,
    bias: Any,
    state: State,
    x: jax.Array,
    *,
    strides: Any = 1,
    padding: Any = "SAME",
    kernel_dilation: Any = 1,
    transpose_kernel: bool = False,
    dtypes: Dtypes,
) -> jax.Array:
    """nnx.ConvTranspose and nn.ConvTranspose as a convolution of the dilated input; padding also "CIRCULAR".

    With `transpose_kernel` the kernel is stored as (*taps, out, in), as that of the convolution it undoes.
    """
    taps = tuple(kernel.shape)[:-2]
    rank = len(taps)
    lead, x = x.shape[: x.ndim - rank - 1], x.reshape(-1, *x.shape[x.ndim - rank - 1 :])
    strides, dilation = each(strides, rank), each(kernel_dilation, rank)
    reach = [(n - 1) * d + 1 for n, d in zip(taps, dilation, strict=True)]
    if padding == "CIRCULAR":
        x, pads = circular_transposed(x, reach, strides, extra_left=not transpose_kernel)
    elif isinstance(padding, str):
        pads = [transposed_padding(r, s, padding) for r, s in zip(reach, strides, strict=True)]
    else:
        pads = [(p, p) if isinstance(p, int) else tuple(p) for p in each(padding, rank)]
    window = {
        "strides": (1,) * rank, "padding": tuple(pads), "input_dilation": strides, "kernel_dilation": dilation,
        "feature_group_count": 1,
    }  # fmt: skip
    y = _conv(site, kernel, bias, state, x, window, dtypes, mirrored=transpose_kernel)
    return y.reshape(*lead, *y.shape[1:])


def _conv(
    site: LayerSpec, kernel: Kernel, bias: Any, state: State, x: jax.Array, window: dict[str, Any], dtypes: Dtypes,
    *, mirrored: bool = False,
) -> jax.Array:  # fmt: skip
    options = input_options(site, state, x.ndim, tuple(range(1, x.ndim))) | {"dtype": dtypes.result(x)}

    def quantized() -> jax.Array:
        codes = weight(site, kernel, state)
        return qat.conv(real(x, options), mirror(codes) if mirrored else codes, bias, **window, **options)

    def plain() -> jax.Array:
        return _plain_conv(x, _mirrored(kernel) if mirrored else kernel, bias, window, options["dtype"])

    return scheduled(site, state, quantized, plain)


def mirror(weight: Trained | QTensor) -> Trained | QTensor:
    """A weight of (*taps, out, in) as one of (*taps, in, out) with its taps in reverse: the same codes and scales.

    Raises:
      ValueError: blocks, or groups along taps, which would not be the same ones.
    """
    grain, last = weight.spec.granularity, len(weight.shape) - 1
    swapped = {last: last - 1, last - 1: last}
    if isinstance(grain, PerAxis):
        axes = tuple(swapped.get(axis % (last + 1), axis % (last + 1)) for axis in grain.axes)
        grain = PerAxis(axes[0] if len(axes) == 1 else axes)
    elif isinstance(grain, PerGroup) and grain.axis % (last + 1) in swapped:
        grain = PerGroup(swapped[grain.axis % (last + 1)], grain.size)
    elif not isinstance(grain, PerTensor):
        raise ValueError(
            f"conv_transpose: transpose_kernel with weights {grain}, need tensor, channel or groups of channels (the "
            "kernel is read backwards)"
        )
    return replace(jax.tree.map(_mirrored, weight), spec=replace(weight.spec, granularity=grain))


def _mirrored(values: jax.Array) -> jax.Array:
    """Of a kernel or its scales; a scale a tensor stays."""
    return values if values.ndim == 0 else jnp.flip(values, range(values.ndim - 2)).swapaxes(-1, -2)


def _plain_conv(x: jax.Array, kernel: jax.Array, bias: Any, window: dict[str, Any], dtype: str) -> jax.Array:
    last = x.ndim - 1
    numbers = lax.ConvDimensionNumbers(
        (0, last, *range(1, last)), (last, last - 1, *range(last - 1)), (0, last, *range(1, last))
    )
    y = lax.conv_general_dilated(
        x.astype(dtype), kernel.astype(dtype), window["strides"], window["padding"],
        lhs_dilation=window["input_dilation"], rhs_dilation=window["kernel_dilation"], dimension_numbers=numbers,
        feature_group_count=window["feature_group_count"],
    )  # fmt: skip
    return y if bias is None else y + of_rank(y.ndim, bias.astype(dtype))
