"""A batch norm folded into the layer before it: kernel and bias that give the normalized output.

Jacob et al., Quantization and training of neural networks for efficient integer-arithmetic-only inference (CVPR 2018),
section 3.2, with the running statistics.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxquant import _exact, _inputs, _sharding
from refquant.layer_checks import check_fold


def fold(
    kernel: jax.Array,
    bias: jax.Array | None,
    mean: jax.Array,
    var: jax.Array,
    scale: jax.Array | None = None,
    offset: jax.Array | None = None,
    *,
    epsilon: float,
) -> tuple[jax.Array, jax.Array]:
    """The kernel and the bias of a layer followed by a batch norm in evaluation mode.

    The factor of a channel is scale / sqrt(var + epsilon); kernel · factor and (bias − mean) · factor + offset, each
    step rounded to binary32 and flushed.  Differentiable in every array, by the formula's own derivative (bounded).

    Args:
      kernel: float32, float16 or bfloat16, output channels along the last axis.
      bias: float, shape (channels,), or None.
      mean: float, shape (channels,), running.
      var: float, shape (channels,), running.
      scale: float, shape (channels,), or None for 1.
      offset: float, shape (channels,), or None for 0.
      epsilon: what is added to the variance; rounded to binary32.
    Returns:
      (kernel, bias): float32.
    Raises:
      TypeError: another dtype.
      ValueError: shapes do not fit.

    Spec: LAY-14 (specs/60-layers.md).  Class: exact; the gradient is bounded.
    Example:
      >>> kernel, bias = fold(jnp.float32([[2.0]]), None, jnp.float32([1]), jnp.float32([4]), epsilon=0.0)
      >>> kernel.tolist(), bias.tolist()
      ([[1.0]], [-0.5])
    """
    names = ("kernel", "bias", "mean", "var", "scale", "offset")
    given = zip(names, (kernel, bias, mean, var, scale, offset), strict=True)
    optional = ("bias", "scale", "offset")
    arrays = tuple(
        None if v is None and name in optional else jnp.asarray(_inputs.real("fold", name, v)) for name, v in given
    )
    check_fold(epsilon, arrays[0].shape, **dict(zip(names[1:], arrays[1:], strict=True)))
    return _compiled(float(np.float32(epsilon)), *arrays)


def factor_of(var: jax.Array, scale: jax.Array | None, *, epsilon: float) -> jax.Array:
    """What a channel of the kernel is multiplied by: scale / sqrt(var + epsilon), float32 (LAY-14).

    Differentiable in both arrays, by the formula's own derivative (bounded).
    """
    return _factor(float(np.float32(epsilon)), var, scale)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _factor(epsilon: float, var: jax.Array, scale: jax.Array | None) -> jax.Array:
    deviation = _root(_above(epsilon, var))
    top = jnp.ones_like(deviation) if scale is None else _wide(scale)
    return _exact.flush(_exact.div(top, deviation))


def _factor_forward(epsilon: float, var: jax.Array, scale: jax.Array | None):
    factor = _factor(epsilon, var, scale)
    return factor, (var, scale, factor)


def _factor_backward(epsilon: float, kept, cotangent):
    var, scale, factor = kept
    to_var, to_scale = _to_statistics(epsilon, var, factor, cotangent)
    to_var = _exact.narrow(to_var, str(var.dtype))
    return to_var, None if scale is None else _exact.narrow(to_scale, str(scale.dtype))


def _to_statistics(epsilon: float, var: jax.Array, factor: jax.Array, cotangent: jax.Array):
    """The gradients of var and scale from that of the factor."""
    above = _above(epsilon, var)
    to_var = _exact.div(cotangent * factor * jnp.float32(-0.5), above)
    return to_var, _exact.div(cotangent, _root(above))


def _above(epsilon: float, var: jax.Array) -> jax.Array:
    return _exact.add(_wide(var), jnp.float32(epsilon))


def _root(x: jax.Array) -> jax.Array:
    """Of any number: NaN below zero, a zero of either sign itself."""
    return _exact.select(x < 0, jnp.nan, _exact.select(x == 0, x, _exact.square_root(x)))


_factor.defvjp(_factor_forward, _factor_backward)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _fold(epsilon: float, kernel, bias, mean, var, scale, offset) -> tuple[jax.Array, jax.Array]:
    factor = factor_of(var, scale, epsilon=epsilon)
    folded = _exact.flush(_exact.rounded(_wide(kernel) * _inputs.of_rank(kernel.ndim, factor)))  # LAY-14
    centre = _exact.flush(-_wide(mean)) if bias is None else _exact.add(_wide(bias), -_wide(mean))
    shifted = _exact.flush(_exact.rounded(centre * factor))
    return folded, shifted if offset is None else _exact.add(shifted, _wide(offset))


def _forward(epsilon: float, *arrays):
    return _fold(epsilon, *arrays), arrays


def _backward(epsilon: float, arrays, cotangents):
    kernel, bias, mean, var, scale, offset = arrays
    factor = factor_of(var, scale, epsilon=epsilon)
    centre = -_wide(mean) if bias is None else _exact.add(_wide(bias), -_wide(mean))
    _, pull = jax.vjp(lambda k, c, f: (k * _inputs.of_rank(k.ndim, f), c * f), _wide(kernel), centre, factor)
    to_kernel, to_centre, to_factor = pull(cotangents)
    to_var, to_scale = _to_statistics(epsilon, var, factor, to_factor)
    to_scale = None if scale is None else to_scale
    found = (to_kernel, to_centre, -to_centre, to_var, to_scale, cotangents[1])
    return tuple(None if v is None else _exact.narrow(g, str(v.dtype)) for v, g in zip(arrays, found, strict=True))


_fold.defvjp(_forward, _backward)
_compiled = _sharding.jit(_fold, static_argnums=0)


def _wide(x: jax.Array) -> jax.Array:
    return _exact.flush(_exact.rounded(_exact.widen(x)))
