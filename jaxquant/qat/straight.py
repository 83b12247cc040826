"""Layers in training: the forward pass is the integer layer, the backward pass the float one's (LAY-12, LAY-13).

What the backward pass keeps of the input is codes, a byte each, and where they do not tell the mask that too, as large;
or the input itself where its scale is learned or it stays in float: never more than a float layer keeps.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from jaxquant import _exact, _own_range, _sharding, affine
from jaxquant._first_order import first_order
from jaxquant._sharding import Spec
from jaxquant.qat.layer import Operand, centred, weight_operand
from jaxquant.qat.learned import effective, learned_vjp
from jaxquant.qat.trained import Pair, Trained, dynamic_scale
from jaxquant.qtensor import QTensor, coded, dequantize_tensor, spec_convention, step
from refquant.estimators import Estimator, Ste
from refquant.layer_checks import integers
from refquant.spec import QuantSpec, ScaleRule


class Layer(Protocol):
    """A layer operation with all that is known at trace time; hashable."""

    @property
    def inputs(self) -> QuantSpec | None:
        """How x is quantized; None: left in float."""
        ...

    @property
    def estimator(self) -> Estimator:
        """How the gradient of x passes the rounding."""
        ...

    def integer(self, a: Operand, weight: QTensor, bias: jax.Array | None) -> jax.Array:
        """LAY-1..LAY-5 on centred codes."""
        ...

    def weights_only(self, x: jax.Array, weight: QTensor, bias: jax.Array | None) -> jax.Array:
        """LAY-7."""
        ...

    def product(self, x: jax.Array, weight: jax.Array) -> jax.Array:
        """The float operation that this one approximates without its bias, binary32, linear in x and in the weight."""
        ...

    def weight_factor(self, weight: QTensor) -> jax.Array | None:
        """The scale of the weight as it broadcasts to the result; None: it does not leave the sum (groups)."""
        ...

    def sharded(self, x: Spec, weight: Spec) -> Spec:
        """How the result is sharded over explicit mesh axes."""
        ...


class Side(NamedTuple):
    """An operand of the backward products.

    Attributes:
      values: float32; codes, or real values.
      factor: the one scale that makes codes real; None for real values.
    """

    values: jax.Array
    factor: jax.Array | None


def _sharded(shape: tuple[int, ...], /, layer: Layer, x: jax.Array, weight: Any, *_: Any) -> Spec:
    return layer.sharded(_sharding.spec_of(x), _sharding.spec_of(jax.tree.leaves(weight)[0]))


@partial(_sharding.jit, result=_sharded, static_argnums=0)
def run(layer: Layer, x: jax.Array, weight: QTensor | Trained, bias: jax.Array | None, static: Any) -> jax.Array:
    """The layer's result; differentiable in x, a Trained weight, a float bias and a learned scale."""
    return _straight_through(layer, x, weight, bias, static)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _straight_through(layer: Layer, x: jax.Array, weight: Any, bias: Any, static: Any) -> jax.Array:
    q = weight.quantized() if isinstance(weight, Trained) else _sealed(weight)
    if layer.inputs is None:
        return layer.weights_only(x, q, bias)
    scale, zero_point = _input_scale(layer, x, static)
    codes = coded(x, scale, zero_point, layer.inputs).codes
    return layer.integer(centred(codes, zero_point, scale, integers(layer.inputs)), q, bias)


def _forward(layer: Layer, x: jax.Array, weight: Any, bias: Any, static: Any) -> tuple[jax.Array, tuple]:
    if isinstance(weight, Trained):
        pair = weight.scale()
        q = weight.coded(*pair)
    else:
        pair, q = (weight.scale, weight.zero_point), _sealed(weight)
    kept = (weight, pair, bias, static, jnp.zeros((), x.dtype))
    if layer.inputs is None:
        return layer.weights_only(x, q, bias), (x, None, *kept)
    scale, zero_point = _input_scale(layer, x, static)
    own = layer.inputs.scale if static is None else None
    codes, seen = _codes_and_kept(layer, x, scale, zero_point, own)
    y = layer.integer(centred(codes, zero_point, scale, integers(layer.inputs)), q, bias)
    return y, (seen, (scale, zero_point), *kept)


def _codes_and_kept(
    layer: Layer, x: jax.Array, scale: jax.Array, zero_point: jax.Array | None, own: ScaleRule | None
) -> tuple:
    """The codes of x, and what the backward pass needs of it; own: the rule that made a dynamic scale of x."""
    fmt, grain, convention = _meaning(layer.inputs)
    options = {"fmt": fmt, "granularity": grain, "convention": convention}
    factor = step(scale, layer.inputs)
    codes = affine.quantize(x, factor, zero_point, **options)
    if not isinstance(layer.estimator, Ste):
        return codes, x
    mask = layer.estimator.mask
    if own is not None and _own_range.told_by_codes(own, fmt, convention, mask):
        return codes, (codes, None)
    return codes, (codes, affine.judge(x, factor, zero_point, **options, mask=mask, own=own))


def _backward(layer: Layer, kept: tuple, cotangent: jax.Array) -> tuple:
    seen, input_pair, weight, weight_pair, bias, static, like = kept
    q = weight.coded(*weight_pair) if isinstance(weight, Trained) else weight
    flowing = _exact.widen(cotangent)
    to_x, to_weight = _product_cotangents(layer, _real_side(layer, seen, input_pair), q, flowing)
    to_x, to_static = _input_cotangent(layer, seen, input_pair, static, to_x)
    return (
        _exact.cast(to_x, str(like.dtype)),
        weight.cotangent(*weight_pair, to_weight) if isinstance(weight, Trained) else None,
        None if bias is None or bias.dtype == jnp.int32 else _bias_cotangent(bias, flowing),
        to_static,
    )


def _product_cotangents(layer: Layer, x: Side, q: QTensor, flowing: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The gradients of x̂ and ŵ.

    The codes of the forward pass serve again.  One scale for all multiplies what comes out, where it fuses with the
    mask; scales of tokens or channels multiply the codes, which become float anyway: a cotangent would be written anew.
    """
    factor = None if layer.inputs is None else layer.weight_factor(q)
    whole = factor is not None and factor.ndim == 0
    w = Side(_as_float(weight_operand(q)), factor) if whole else Side(dequantize_tensor(q), None)
    to_x = jax.linear_transpose(lambda v: layer.product(v, w.values), x.values)
    to_weight = jax.linear_transpose(lambda v: layer.product(x.values, v), w.values)
    return _pulled(to_x, flowing, w.factor), _pulled(to_weight, flowing, x.factor)


def _pulled(pull: Callable, flowing: jax.Array, factor: jax.Array | None) -> jax.Array:
    cotangent = pull(flowing)[0]
    return cotangent if factor is None else cotangent * factor


def _bias_cotangent(bias: jax.Array, flowing: jax.Array) -> jax.Array:
    summed = jax.linear_transpose(lambda b: jnp.broadcast_to(b, flowing.shape), _exact.widen(bias))(flowing)[0]
    return _exact.cast(summed, str(bias.dtype))


_straight_through.defvjp(*first_order(_forward, _backward))


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def fake_values(weight: Trained, dtype: str) -> jax.Array:
    """The real values of a weight in training, rounded to dtype; the gradient by its estimator (LAY-13)."""
    return dequantize_tensor(weight.quantized(), dtype=dtype)


def _fake_forward(weight: Trained, dtype: str) -> tuple[jax.Array, tuple]:
    pair = weight.scale()
    return dequantize_tensor(weight.coded(*pair), dtype=dtype), (weight, pair)


def _fake_backward(dtype: str, kept: tuple, cotangent: jax.Array) -> tuple[Trained]:
    weight, pair = kept
    return (weight.cotangent(*pair, _exact.widen(cotangent)),)


fake_values.defvjp(*first_order(_fake_forward, _fake_backward))


def _sealed(weight: QTensor) -> QTensor:
    """GEN-3: a scale that is a product in the same program is rounded before it is used."""
    return replace(weight, scale=_exact.rounded(weight.scale))


def _input_scale(layer: Layer, x: jax.Array, static: Any) -> Pair:
    """Scale, rounded (GEN-3), and zero point of x: from its range, given, or learned (LAY-4, LAY-12)."""
    if static is None:
        return dynamic_scale(x, layer.inputs)
    if isinstance(layer.estimator, Ste):
        return _exact.rounded(static[0]), static[1]
    return effective(layer.estimator, tuple(v for v in static if v is not None), layer.inputs.fmt)


def _real_side(layer: Layer, seen: Any, pair: Pair | None) -> Side:
    """What the product of the forward pass was taken of: x, or its centred codes and their scale."""
    if layer.inputs is None:
        return Side(_exact.widen(seen), None)
    scale, zero_point = pair
    codes = seen[0] if isinstance(layer.estimator, Ste) else _codes_and_kept(layer, seen, scale, zero_point, None)[0]
    values = _as_float(centred(codes, zero_point, scale, integers(layer.inputs)))
    return Side(values * scale, None) if scale.ndim else Side(values, scale)


def _as_float(side: Operand) -> jax.Array:
    return side.values.astype(jnp.float32)


def _input_cotangent(
    layer: Layer, seen: Any, pair: Pair | None, static: Any, flowing: jax.Array
) -> tuple[jax.Array, Any]:
    """The gradients of x and of its learned scale, given that of its quantized values."""
    if layer.inputs is None:
        return flowing, None
    fmt, grain, convention = _meaning(layer.inputs)
    if isinstance(layer.estimator, Ste):
        codes, inside = seen
        if inside is None:
            inside = _own_range.judge(codes, pair[0], fmt=fmt, granularity=grain)
        return affine.masked(flowing, inside), None
    learned = tuple(v for v in static if v is not None)
    passed, found = learned_vjp(
        layer.estimator, seen, learned, flowing, fmt=fmt, granularity=grain, convention=convention
    )
    return passed, (*found, *(None,) * (len(static) - len(found)))


def _meaning(spec: QuantSpec) -> tuple:
    return spec.fmt, spec.granularity, spec_convention(spec)
