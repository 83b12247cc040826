"""quantize, dequantize, fake_quantize and its clip-STE gradient (specs/20-affine.md)."""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxquant import _exact, _inputs, _own_range, _sharding, _steps, blocks
from jaxquant._constants import bitcast
from jaxquant._first_order import first_order
from jaxquant._plan import Plan
from refquant import checks
from refquant.conventions import CAST, DEFAULT, Affine, Cast
from refquant.formats import Format, IntFormat
from refquant.granularity import Granularity, PerTensor
from refquant.kinds import kinds
from refquant.spec import ScaleRule

MASKS = ("rounded", "ratio")


@kinds
def quantize(
    x: jax.Array,
    scale: jax.Array | float,
    zero_point: jax.Array | int | None = None,
    *,
    fmt: Format,
    granularity: Granularity = PerTensor(),
    convention: Affine = DEFAULT,
    cast: Cast = CAST,
) -> jax.Array:
    """Codes of x: round(x / scale) + zero_point, saturated to the format.

    Args:
      x: float32, float16 or bfloat16, any shape.
      scale: float32, shape `granularity.scale_shape(x.shape)`, or a Python number for PerTensor.
      zero_point: int32 in [qmin, qmax] (float32 where the convention's zero is "bias"), shape of scale; None: zero.
      fmt: any format; a float format or a codebook takes encode(x / scale).
      granularity: which elements share a scale.
      convention: how the code is computed; the default is the ONNX specification's formula.
      cast: what encode does, for float formats and codebooks.
    Returns:
      Codes of dtype `fmt.storage`, shape of x.  NaN gives qmin under the default; ±inf gives qmax / qmin.
    Raises:
      TypeError: a dtype does not fit.  ValueError: a shape does not.

    Spec: AFF-1..AFF-8 (specs/20-affine.md).  Class: exact.

    Example:
      >>> import numpy as np
      >>> from refquant.formats import ALL
      >>> quantize(np.float32([0.5, 1.5, 99, -99]), 0.5, fmt=ALL["int4"]).tolist()
      [1, 3, 7, -8]
    """
    plan, operands = _prepare("quantize", x, scale, zero_point, fmt, granularity, convention, cast)
    return _quantize(plan, *operands)


@kinds
def dequantize(
    codes: jax.Array,
    scale: jax.Array | float,
    zero_point: jax.Array | int | None = None,
    *,
    fmt: Format,
    granularity: Granularity = PerTensor(),
    dtype: object = "float32",
) -> jax.Array:
    """The real values of codes: (codes - zero_point) * scale.

    Args:
      codes: of dtype `fmt.storage`, any shape.
      scale: float32, shape `granularity.scale_shape(codes.shape)`, or a Python number for PerTensor.
      zero_point: int32, or float32 for a real offset, shape of scale; None: zero.
      fmt: the format of the codes.
      granularity: which elements share a scale.
      dtype: "float32", "float16" or "bfloat16".
    Returns:
      dtype, shape of codes.
    Raises:
      TypeError: a dtype does not fit.  ValueError: a shape does not.

    Spec: DEQ-1..DEQ-4 (specs/20-affine.md).  Class: exact.

    Example:
      >>> import numpy as np
      >>> from refquant.formats import ALL
      >>> dequantize(np.int8([1, 3, -8]), 0.5, fmt=ALL["int4"]).tolist()
      [0.5, 1.5, -4.0]
    """
    name = _inputs.result_dtype("dequantize", dtype)
    codes = _inputs.codes("dequantize", codes, fmt)
    real_offset = type(zero_point) is float or str(getattr(zero_point, "dtype", "")) == "float32"
    kind = "bias" if real_offset else "int"
    scale, zero_point = _per_tile("dequantize", codes.shape, scale, zero_point, fmt, granularity, kind)
    plan = Plan(fmt, granularity.tile(codes.shape), dtype=name)
    return _dequantize(plan, codes, scale, zero_point)


@kinds
def fake_quantize(
    x: jax.Array,
    scale: jax.Array | float,
    zero_point: jax.Array | int | None = None,
    *,
    fmt: Format,
    granularity: Granularity = PerTensor(),
    convention: Affine = DEFAULT,
    cast: Cast = CAST,
    mask: str = "rounded",
) -> jax.Array:
    """dequantize(quantize(x)) in one pass, with the clip-STE gradient for x.

    Args:
      x: float32, float16 or bfloat16, any shape.
      scale: as for `quantize`.
      zero_point: as for `quantize`.
      fmt: any format.
      granularity: which elements share a scale.
      convention: how the code is computed.
      cast: what encode does, for float formats and codebooks.
      mask: which elements let the gradient pass, see `fake_quantize_vjp`.
    Returns:
      dtype and shape of x.  Reverse-mode gradients: x by STE, scale and zero point zero.
    Raises:
      TypeError, ValueError: as for `quantize`, or an unknown mask.

    Spec: FQ-1, STE-1..STE-4 (specs/20-affine.md).  Class: exact.
    """
    checks.option("fake_quantize", "mask", mask, MASKS, "STE-2")
    plan, operands = _prepare("fake_quantize", x, scale, zero_point, fmt, granularity, convention, cast, mask)
    return _fake_quantize(plan, *operands)


@kinds
def fake_quantize_vjp(
    x: jax.Array,
    scale: jax.Array | float,
    zero_point: jax.Array | int | None,
    cotangent: jax.Array,
    *,
    fmt: Format,
    granularity: Granularity = PerTensor(),
    convention: Affine = DEFAULT,
    mask: str = "rounded",
) -> jax.Array:
    """The clip-STE gradient of `fake_quantize` for x: the cotangent inside the range, +0 outside.

    Args:
      x: float32, float16 or bfloat16, any shape.
      scale: as for `quantize`.
      zero_point: as for `quantize`.
      cotangent: float32, float16 or bfloat16, shape of x.
      fmt: any format.
      granularity: which elements share a scale.
      convention: how the code is computed.
      mask: "rounded": inside means the rounded value lies in the range; "ratio": the unrounded one does.
    Returns:
      dtype of the cotangent, shape of x.
    Raises:
      TypeError, ValueError: as for `quantize`, an unknown mask, or a cotangent of another shape.

    Spec: STE-1..STE-4 (specs/20-affine.md).  Class: exact.
    """
    name = "fake_quantize_vjp"
    checks.option(name, "mask", mask, MASKS, "STE-2")
    plan, operands = _prepare(name, x, scale, zero_point, fmt, granularity, convention, CAST, mask)
    cotangent = _inputs.real(name, "cotangent", cotangent)
    checks.same_shape(name, "cotangent", cotangent.shape, operands[0].shape, "x")
    return _vjp(plan, *operands, cotangent)


def judge(
    x: jax.Array,
    scale: jax.Array,
    zero_point: jax.Array | None,
    *,
    fmt: Format,
    granularity: Granularity,
    convention: Affine,
    mask: str,
    own: ScaleRule | None = None,
) -> jax.Array:
    """Which elements let a gradient pass, as a number for `masked`.

    Args:
      x: float32, float16 or bfloat16, any shape.
      scale: as for `quantize`.
      zero_point: likewise.
      fmt: any format.
      granularity: which elements share a scale.
      convention: how the code is computed.
      mask: see `fake_quantize_vjp`.
      own: the rule by which `scales.scale_of` made the scale from x itself, if it did: the same answer, for less.
    Returns:
      int8, shape of x: -1 inside, 0 outside.

    Spec: STE-2, STE-3 (specs/20-affine.md).  Class: exact.
    """
    plan, operands = _prepare("quantize", x, scale, zero_point, fmt, granularity, convention, CAST, mask)
    return _judge(replace(plan, own=own is not None and _own_range.covers(own, fmt)), *operands)


def masked(cotangent: jax.Array, inside: jax.Array) -> jax.Array:
    """The cotangent where `judge` says inside, +0 elsewhere (STE-1)."""
    return _pass(inside, cotangent)


def _prepare(
    name: str, x: Any, scale: Any, zero_point: Any, fmt: Format, granularity: Granularity, convention: Affine,
    cast: Cast, mask: str = "rounded",
) -> tuple[Plan, tuple[Any, Any, Any]]:  # fmt: skip
    x = _inputs.real(name, "x", x)
    scale, zero_point = _per_tile(name, x.shape, scale, zero_point, fmt, granularity, convention.zero)
    if not isinstance(fmt, IntFormat):
        convention = Affine(op=convention.op, prec=convention.prec)  # AFF-6: the rest does not apply
    return Plan(fmt, granularity.tile(x.shape), convention, cast, mask), (x, scale, zero_point)


def _per_tile(
    name: str, shape: tuple[int, ...], scale: Any, zero_point: Any, fmt: Format, granularity: Granularity, zero: str
) -> tuple[Any, Any]:
    """Scale and zero point, checked one after the other."""
    scale = _inputs.scale(name, scale)
    checks.scale_shape(name, "scale", scale.shape, shape, granularity)
    zero_point = _inputs.zero_point(name, zero_point, zero, fmt)
    if zero_point is not None:
        checks.scale_shape(name, "zero_point", zero_point.shape, shape, granularity)
    return scale, zero_point


def _spread(plan: Plan, shape: tuple[int, ...], *per_tile: Any) -> list[Any]:
    return [None if v is None else blocks.spread(jnp.asarray(v), shape, plan.tile) for v in per_tile]


@partial(_sharding.jit, static_argnums=0)
def _quantize(plan: Plan, x: jax.Array, scale: jax.Array, zero_point: jax.Array | None) -> jax.Array:
    scale, zero_point = _spread(plan, x.shape, scale, zero_point)
    codes, _ = _steps.quantized(plan, _exact.widen(x), scale, zero_point)
    return codes.astype(plan.fmt.storage)


@partial(_sharding.jit, static_argnums=0)
def _judge(plan: Plan, x: jax.Array, scale: jax.Array, zero_point: Any) -> jax.Array:
    return _judged(plan, x, scale, zero_point)[1]


@partial(_sharding.jit, static_argnums=0)
def _dequantize(plan: Plan, codes: jax.Array, scale: jax.Array, zero_point: jax.Array | None) -> jax.Array:
    scale, zero_point = _spread(plan, codes.shape, scale, zero_point)
    return _exact.narrow(_steps.dequantized(plan, codes.astype(jnp.int32), scale, zero_point), plan.dtype)


def _forward(plan: Plan, x: jax.Array, scale: jax.Array, zero_point: Any) -> tuple[jax.Array, jax.Array]:
    """(fake-quantized x, STE mask: int8, -1 inside and 0 outside)."""
    if plan.convention.zero == "bias" and zero_point is None:
        zero_point = jnp.zeros_like(scale)  # AFF-7, told to dequantize too
    codes, mask = _judged(plan, x, scale, zero_point)
    scale, zero_point = _spread(plan, x.shape, scale, zero_point)
    return _exact.narrow(_steps.dequantized(plan, codes, scale, zero_point), str(x.dtype)), mask


def _judged(plan: Plan, x: jax.Array, scale: jax.Array, zero_point: Any) -> tuple[jax.Array, jax.Array]:
    """(int32 codes, STE mask: int8, -1 inside and 0 outside); each reads x, or XLA would write the quotient down."""
    limits = _steps.bounds(plan, scale, zero_point) if _steps.has_bounds(plan, x.size, scale.size) else ()
    limits = _spread(plan, x.shape, *limits)
    wide = _exact.widen(x)
    codes, judge = _steps.quantized(plan, wide, *_spread(plan, x.shape, scale, zero_point))
    inside = (wide >= limits[0]) & (wide <= limits[1]) if limits else judge()
    return codes, -inside.astype(jnp.int8)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _straight_through(plan: Plan, x: jax.Array, scale: jax.Array, zero_point: Any) -> jax.Array:
    return _forward(plan, x, scale, zero_point)[0]


def _backward(plan: Plan, inside: jax.Array, cotangent: jax.Array) -> tuple[jax.Array, None, None]:
    return _pass(inside, cotangent), None, None


def _pass(inside: jax.Array, cotangent: jax.Array) -> jax.Array:
    """STE-1 as an AND with the mask: a select compiles to a branch, which is slow where many elements are outside."""
    whole = jnp.int32 if cotangent.dtype == jnp.float32 else jnp.int16
    kept = bitcast(cotangent, whole) & inside.astype(whole)
    return lax.bitcast_convert_type(kept, cotangent.dtype)


_straight_through.defvjp(*first_order(_forward, _backward))
_fake_quantize = _sharding.jit(_straight_through, static_argnums=0)


@partial(_sharding.jit, static_argnums=0)
def _vjp(plan: Plan, x: jax.Array, scale: jax.Array, zero_point: Any, cotangent: jax.Array) -> jax.Array:
    _, judge = _steps.quantized(plan, _exact.widen(x), *_spread(plan, x.shape, scale, zero_point))
    return _pass(-judge().astype(jnp.int8), cotangent)
