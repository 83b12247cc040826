"""Embedding tables on codes: rows of ids, and products with every row (specs/60-layers.md, LAY-6)."""

import functools
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxquant import _inputs, _sharding, affine
from jaxquant._constants import bitcast
from jaxquant.qat.einsum import DotLayer, contract
from jaxquant.qat.layer import given, real_input, result_dtype
from jaxquant.qat.straight import fake_values
from jaxquant.qat.trained import Trained, checked
from jaxquant.qtensor import QTensor
from refquant import contractions
from refquant.estimators import Estimator, Ste
from refquant.granularity import PerTensor
from refquant.kinds import kinds
from refquant.layer_checks import check_embed, row_tiles
from refquant.spec import QuantSpec


@kinds
def embed(ids: jax.Array, table: QTensor | Trained, *, dtype: Any = "float32") -> jax.Array:
    """The rows of a quantized table.

    Args:
      ids: an integer dtype, any shape.  Negative ones count from the end.
      table: a QTensor or Trained of shape (V, F), any format, any granularity.
      dtype: of the result: float32, float16 or bfloat16.
    Returns:
      dtype, shape (*ids.shape, F); a row of NaN for an id outside -V..V - 1.
    Raises:
      TypeError: ids are no integers, or another dtype does not fit.
      ValueError: the table is not of rank 2.

    Spec: LAY-6 (specs/60-layers.md).  Class: exact.
    """
    ids, result = _inputs.array(ids), result_dtype("embed", dtype)
    check_embed("embed", ids.dtype, table.shape)
    table = checked("embed", table)
    return _embed(_as_int32(ids, table.shape[0]), table, dtype=result)


def _as_int32(ids: Any, rows: int) -> jax.Array:
    """NumPy's 64-bit ids, which JAX would wrap to 32 bits: what lies outside the table stays outside."""
    if isinstance(ids, jax.Array) or ids.dtype.itemsize < 8:
        return jnp.asarray(ids)
    return jnp.asarray(np.where((ids >= -rows) & (ids < rows), ids, rows).astype(np.int32))


def _sharded(shape: tuple[int, ...], /, ids: jax.Array, table: QTensor | Trained, **_: str) -> _sharding.Spec:
    return _sharding.joined(_sharding.spec_of(ids), _sharding.spec_of(jax.tree.leaves(table)[0])[1:])


@functools.partial(_sharding.jit, result=_sharded, static_argnames="dtype")
def _embed(ids: jax.Array, table: QTensor | Trained, *, dtype: str) -> jax.Array:
    rows, width = table.shape
    if rows == 0:
        return jnp.full((*ids.shape, width), jnp.nan, dtype)
    flat = ids.reshape(-1)
    flat = flat.astype(jnp.int32) if flat.dtype.itemsize < 4 else flat  # rows must not overflow the dtype
    at = flat if jnp.issubdtype(flat.dtype, jnp.unsignedinteger) else jnp.where(flat < 0, flat + rows, flat)
    known = (at >= 0) & (at < rows)
    at = jnp.where(known, at, 0).astype(jnp.int32)
    if isinstance(table, Trained):
        values = _trained_rows(table, at, known, dtype)
    else:
        values = _where(known, _rows(table, at, dtype))
    return values.reshape(*ids.shape, width)


def _where(known: jax.Array, values: jax.Array) -> jax.Array:
    return jnp.where(known[:, None], values, jnp.asarray(jnp.nan, values.dtype))


def _rows(table: QTensor, rows: jax.Array, dtype: str) -> jax.Array:
    """Only the rows are dequantized; each is given the scales of its tile (GRA-3)."""
    spec, codes = table.spec, table.codes[rows]
    if isinstance(spec.granularity, PerTensor):
        grain, scale, zero = spec.granularity, table.scale, table.zero_point
    else:
        height, tile = spec.granularity.tile(table.codes.shape)
        grain = row_tiles(tile)
        scale = _picked(table.scale, rows // height)
        zero = None if table.zero_point is None else _picked(table.zero_point, rows // height)
    return affine.dequantize(codes, scale, zero, fmt=spec.fmt, granularity=grain, dtype=dtype)


def _trained_rows(table: Trained, rows: jax.Array, known: jax.Array, dtype: str) -> jax.Array:
    """Where a row's scales are its own, only the rows are quantized.

    They are found again in the backward pass, which so keeps ids and the master table, and nothing of a row's size.
    """
    grain = table.spec.granularity
    height, width = grain.tile(table.shape)
    if table.learned or (height != 1 and table.shape[0] > 1) or isinstance(grain, PerTensor):
        whole = fake_values(table, dtype)
        return jax.checkpoint(lambda whole: _where(known, _picked(whole, rows)))(whole)
    spec = replace(table.spec, granularity=row_tiles(width))

    def found(values: jax.Array) -> jax.Array:
        return _where(known, fake_values(Trained(_picked(values, rows), spec=spec, estimator=table.estimator), dtype))

    return jax.checkpoint(found)(table.values)


@jax.custom_jvp
def _picked(values: jax.Array, rows: jax.Array) -> jax.Array:
    """values[rows] by patterns: of a table split over devices XLA adds up what each of them has, and -0 + 0 is 0.

    Witness: test_matrix_differential_sharded_over_eight_devices.
    """
    pattern = bitcast(values, jnp.dtype(f"int{8 * values.dtype.itemsize}"))
    return jax.lax.bitcast_convert_type(pattern[rows], values.dtype)


@_picked.defjvp
def _picked_tangent(primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
    return _picked(*primals), tangents[0][primals[1]]


@kinds
def attend(
    x: jax.Array,
    table: QTensor | Trained,
    bias: jax.Array | None = None,
    *,
    inputs: QuantSpec | None = None,
    input_scale: jax.Array | None = None,
    input_zero_point: jax.Array | None = None,
    input_estimator: Estimator = Ste(),
    dtype: Any = "float32",
) -> jax.Array:
    """The product x · transposed table + bias: the dense layer of a tied embedding.

    Args:
      x: float32, float16 or bfloat16, shape (..., F).
      table: a QTensor or Trained of shape (V, F): per tensor, per row (axis 0) or in groups along axis 1.
      bias: float, shape (V,); int32 with a static input_scale (LAY-9); or None.
      inputs: how x is quantized, per tensor or per token; None leaves it in float (weights only, LAY-7).
      input_scale: float32, the scale of a static layer, or what is learned; None: from x itself (LAY-4).
      input_zero_point: int32, the zero point of a static layer.
      input_estimator: where input_scale is learned: Lsq, LsqPlus (with a float32 offset as input_zero_point) or Pact.
      dtype: of the result: float32, float16 or bfloat16.
    Returns:
      dtype, shape (..., V).
    Raises:
      TypeError: a dtype does not fit.
      ValueError: shapes or specs do not fit, or the sums might not fit int32.

    Spec: LAY-6, LAY-1..LAY-4, LAY-7..LAY-9, LAY-12 (specs/60-layers.md).  Class: exact; bounded where inputs is None.
    """
    x = real_input("attend", x)
    plan = contractions.attend("attend", x.shape, table.shape)
    static = given("attend", x, inputs, input_scale, input_zero_point, input_estimator)
    layer = DotLayer(plan, inputs, result_dtype("attend", dtype), input_estimator)
    return contract("attend", layer, x, table, bias, static)
