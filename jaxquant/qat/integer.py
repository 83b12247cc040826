"""Exact integer sums of products on any backend, through float32 where CPUs are faster that way (SUM-2).

A float32 sum of integers is exact in any order while every partial sum stays within 2^24.  So long sums are cut in
pieces, wide integers in limbs of eight bits, and the int32 parts added; the native product is used elsewhere than on
CPUs, and there for int8 matrices where XLA has a kernel for them.  Same bits.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxquant import _inputs, _sharding
from refquant.sum_checks import check_convolve, check_matmul
from refquant.windows import Numbers, Padding, Window

FLOAT_EXACT = 2**24
LIMB = 8  # bits
WIDE = 256  # two operands within it leave room for 256 products
#: Since 0.10 XLA:CPU multiplies int8 as fast as float; before, several times slower (benchmarks/layers.py).
NATIVE_INT8 = jax.__version_info__ >= (0, 10)
UNROLLED = 8  # pieces; more are a loop, so that the program stays small


def matmul(a: jax.Array, b: jax.Array, *, max_a: int, max_b: int) -> jax.Array:
    """The int32 product of integer matrices.

    Args:
      a: any integer dtype, shape (..., M, K) or (K,), |a| at most max_a.
      b: any integer dtype, shape (..., K, N), |b| at most max_b; leading axes as those of a, or none.
      max_a: the bound that the formats give.
      max_b: likewise.
    Returns:
      int32, the shape that np.matmul gives.
    Raises:
      TypeError: another dtype.
      ValueError: shapes do not fit, or K * max_a * max_b is above 2^31 - 1.

    Spec: SUM-2 (specs/00-conventions.md), LAY-8 (specs/60-layers.md).  Class: exact.
    Example:
      >>> matmul(jnp.int8([[100, -128]]), jnp.int8([[100], [-128]]), max_a=128, max_b=128).tolist()
      [[26384]]
    """
    a, b = _inputs.array(a), _inputs.array(b)
    check_matmul(a, b, max_a, max_b)
    return product(a, b, batch=b.ndim - 2, max_a=max_a, max_b=max_b)


def _sharded(shape: tuple[int, ...], /, a: jax.Array, b: jax.Array, *, batch: int, **_: int) -> _sharding.Spec:
    return _sharding.joined(_sharding.spec_of(a)[:-1], _sharding.spec_of(b)[batch + 1 :])


@functools.partial(_sharding.jit, result=_sharded, static_argnames=("batch", "max_a", "max_b"))
def product(a: jax.Array, b: jax.Array, *, batch: int, max_a: int, max_b: int) -> jax.Array:
    """int32 (*batch, *rows, *columns) from a (*batch, *rows, K) and b (*batch, K, *columns); bounds as in `matmul`."""
    native = functools.partial(_native, functools.partial(_dot, batch=batch), max_a=max_a, max_b=max_b)
    if NATIVE_INT8 and a.dtype == b.dtype == jnp.int8:
        return _of_two_rows(native, a, b) if batch == 0 and math.prod(a.shape[:-1]) == 1 else native(a, b)
    return lax.platform_dependent(a, b, cpu=lambda a, b: _by_float(a, b, batch, max_a, max_b), default=native)


def _of_two_rows(function: Callable, a: jax.Array, b: jax.Array) -> jax.Array:
    """One row as the first of two: XLA:CPU has a kernel for products of matrices of int8, none for one row."""
    rows = a.reshape(1, -1)
    y = function(jnp.concatenate([rows, jnp.zeros_like(rows)]), b)
    return y[0].reshape(*a.shape[:-1], *b.shape[1:])


def _by_float(a: jax.Array, b: jax.Array, batch: int, max_a: int, max_b: int) -> jax.Array:
    if max_a > WIDE or max_b > WIDE:
        return _in_limbs(lambda a, b, most_a, most_b: _by_float(a, b, batch, most_a, most_b), a, b, max_a, max_b)
    depth = a.shape[-1]
    most = FLOAT_EXACT // max(max_a * max_b, 1)  # products in one exact piece: rounded down, and none is longer
    if depth > UNROLLED * most:
        return _looped(a, b, batch, most)
    a, b = a.astype(jnp.float32), b.astype(jnp.float32)
    parts = [
        _dot(_cut(a, a.ndim - 1, at, most), _cut(b, batch, at, most), batch, jnp.float32).astype(jnp.int32)
        for at in range(0, max(depth, 1), most)
    ]
    return functools.reduce(jnp.add, parts)


def _looped(a: jax.Array, b: jax.Array, batch: int, size: int) -> jax.Array:
    """Many pieces: zeros fill up the last one, and a loop adds their int32 sums."""
    count = math.ceil(a.shape[-1] / size)
    a, b = _filled(a, a.ndim - 1, count * size), _filled(b, batch, count * size)

    def piece(at: jax.Array | int) -> jax.Array:
        left = lax.dynamic_slice_in_dim(a, at * size, size, a.ndim - 1).astype(jnp.float32)
        right = lax.dynamic_slice_in_dim(b, at * size, size, batch).astype(jnp.float32)
        return _dot(left, right, batch, jnp.float32).astype(jnp.int32)

    return lax.fori_loop(1, count, lambda at, total: total + piece(at), piece(0))


def _in_limbs(function, a: jax.Array, b: jax.Array, max_a: int, max_b: int) -> jax.Array:
    """With a = 256 high + low, a·b = 256 (high·b) + low·b; int32 may wrap in between and ends right: the sum fits."""
    if max_a <= WIDE:
        return _in_limbs(lambda b, a, most_b, most_a: function(a, b, most_a, most_b), b, a, max_b, max_a)
    wide = a.astype(jnp.int32)
    high = function(lax.shift_right_arithmetic(wide, jnp.int32(LIMB)), b, (max_a >> LIMB) + 1, max_b)
    return lax.shift_left(high, jnp.int32(LIMB)) + function(wide & (WIDE - 1), b, WIDE - 1, max_b)


def _native(function, a: jax.Array, b: jax.Array, max_a: int, max_b: int) -> jax.Array:
    narrow = jnp.int8 if a.dtype == b.dtype == jnp.int8 else jnp.int32
    return function(a.astype(narrow), b.astype(narrow), dtype=jnp.int32)


def _dot(a: jax.Array, b: jax.Array, batch: int, dtype: jnp.dtype) -> jax.Array:
    axes = tuple(range(batch))
    contract = (((a.ndim - 1,), (batch,)), (axes, axes))
    return lax.dot_general(a, b, contract, precision=lax.Precision.HIGHEST, preferred_element_type=dtype)


def _cut(x: jax.Array, axis: int, start: int, size: int) -> jax.Array:
    return lax.slice_in_dim(x, start, min(start + size, x.shape[axis]), axis=axis)


def _filled(x: jax.Array, axis: int, size: int) -> jax.Array:
    padding = [(0, 0)] * x.ndim
    padding[axis] = (0, size - x.shape[axis])
    return jnp.pad(x, padding)


def convolve(
    a: jax.Array,
    b: jax.Array,
    *,
    strides: Numbers = 1,
    padding: Padding = "SAME",
    input_dilation: Numbers = 1,
    kernel_dilation: Numbers = 1,
    feature_group_count: int = 1,
    max_a: int,
    max_b: int,
) -> jax.Array:
    """The int32 convolution of integers (the kernel is not flipped): the sums of `conv`.

    Args:
      a: any integer dtype, shape (batch, *space, in), |a| at most max_a; what is padded counts as 0.
      b: any integer dtype, shape (*taps, in / feature_group_count, out), |b| at most max_b.
      strides: as in `conv`.
      padding: likewise.
      input_dilation: likewise.
      kernel_dilation: likewise.
      feature_group_count: likewise.
      max_a: the bound that the formats give.
      max_b: likewise.
    Returns:
      int32, shape (batch, *space of the result, out).
    Raises:
      TypeError: another dtype.
      ValueError: shapes or options do not fit, or the sum over taps and channels could exceed 2^31 - 1.

    Spec: SUM-2 (specs/00-conventions.md), LAY-5, LAY-8 (specs/60-layers.md).  Class: exact.
    Example:
      >>> a, b = jnp.int8([[[1], [2], [3]]]), jnp.int8([[[1]], [[10]]])
      >>> convolve(a, b, max_a=128, max_b=128, padding="VALID").tolist()
      [[[21], [32]]]
    """
    a, b = _inputs.array(a), _inputs.array(b)
    at = check_convolve(
        a, b, max_a, max_b, strides=strides, padding=padding, input_dilation=input_dilation,
        kernel_dilation=kernel_dilation, groups=feature_group_count,
    )  # fmt: skip
    return windowed(a, b, window=at, max_a=max_a, max_b=max_b)


def windowed_spec(a: _sharding.Spec, b: _sharding.Spec) -> _sharding.Spec:
    """How a convolution is sharded: examples as those of a, channels as those of b, space not."""
    return _sharding.joined(a[:1], (None,) * (len(a) - 2), b[-1:])


def _sharded_windowed(_: tuple[int, ...], /, a: jax.Array, b: jax.Array, **__: Any) -> _sharding.Spec:
    return windowed_spec(_sharding.spec_of(a), _sharding.spec_of(b))


@functools.partial(_sharding.jit, result=_sharded_windowed, static_argnames=("window", "max_a", "max_b"))
def windowed(a: jax.Array, b: jax.Array, *, window: Window, max_a: int, max_b: int) -> jax.Array:
    """`convolve` by a window that fits."""
    if math.prod((*a.shape, *window.out, *b.shape)) == 0:  # no product, or padding alone
        return jnp.zeros((a.shape[0], *window.out, b.shape[-1]), jnp.int32)
    return lax.platform_dependent(
        a,
        b,
        cpu=lambda a, b: _conv_by_float(a, b, window, max_a, max_b),
        default=lambda a, b: _native(functools.partial(correlate, window=window), a, b, max_a, max_b),
    )


def _conv_by_float(a: jax.Array, b: jax.Array, window: Window, max_a: int, max_b: int) -> jax.Array:
    if max_a > WIDE or max_b > WIDE:
        return _in_limbs(lambda a, b, most_a, most_b: _conv_by_float(a, b, window, most_a, most_b), a, b, max_a, max_b)
    taps, width = math.prod(b.shape[:-2]), b.shape[-2]
    plain = max(*window.strides, *window.input_dilation, window.groups) == 1 and not any(map(any, window.padding))
    if taps == 1 and plain:
        return _by_float(a, b.reshape(b.shape[-2:]), 0, max_a, max_b)  # each place alone: a product of matrices
    size = FLOAT_EXACT // (taps * max_a * max_b)  # input channels of a group in one exact piece
    if size == 0:
        return correlate(a.astype(jnp.int32), b.astype(jnp.int32), window, jnp.int32)
    a, b = a.astype(jnp.float32), b.astype(jnp.float32)
    size = math.ceil(width / math.ceil(width / size))
    parts = [
        correlate(_channels(a, window.groups, at, size), _cut(b, b.ndim - 2, at, size), window, jnp.float32)
        for at in range(0, width, size)
    ]
    return functools.reduce(jnp.add, [part.astype(jnp.int32) for part in parts])


def _channels(a: jax.Array, groups: int, start: int, size: int) -> jax.Array:
    """Some input channels of every group."""
    split = a.reshape(*a.shape[:-1], groups, a.shape[-1] // groups)
    part = _cut(split, split.ndim - 1, start, size)
    return part.reshape(*a.shape[:-1], -1)


def correlate(a: jax.Array, b: jax.Array, window: Window, dtype: jnp.dtype) -> jax.Array:
    """The convolution (without flipping the kernel) of (batch, *space, in) and (*taps, in / groups, out).

    Where a group has one channel and several outputs, these are given a group each: XLA's partitioner mixes them up
    where they are split over more devices than there are groups and the kernel is computed.
    Witness: test_layer_differential_sharded_over_eight_devices (tests/sharded_layers.py).
    """
    if 0 in a.shape:
        return jnp.zeros((a.shape[0], *window.out, b.shape[-1]), dtype)  # padding alone
    if b.shape[-2] == 1 and 1 < window.groups < b.shape[-1]:
        a = jnp.repeat(a, b.shape[-1] // window.groups, axis=-1)
        window = replace(window, groups=b.shape[-1])
    last = a.ndim - 1
    space = tuple(range(1, last))
    taps = tuple(range(last - 1))
    return lax.conv_general_dilated(
        a,
        b,
        window.strides,
        window.padding,
        lhs_dilation=window.input_dilation,
        rhs_dilation=window.kernel_dilation,
        dimension_numbers=lax.ConvDimensionNumbers((0, last, *space), (last, last - 1, *taps), (0, last, *space)),
        feature_group_count=window.groups,
        precision=lax.Precision.HIGHEST,
        preferred_element_type=dtype,
    )
