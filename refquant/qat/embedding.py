"""Embedding tables on codes: rows of ids, and products with every row (specs/60-layers.md, LAY-6)."""

import numpy as np

from refquant import contractions
from refquant.affine import dequantize
from refquant.arguments import as_array
from refquant.estimators import Estimator, Ste
from refquant.granularity import PerTensor
from refquant.kinds import kinds
from refquant.layer_checks import check_embed, check_weight, row_tiles
from refquant.qat.einsum import contract
from refquant.qat.layer import given, real_input, result_dtype
from refquant.qat.trained import Trained, frozen
from refquant.qtensor import QTensor
from refquant.spec import QuantSpec


@kinds
def embed(ids: np.ndarray, table: QTensor | Trained, *, dtype: np.dtype | type | str = "float32") -> np.ndarray:
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
    Example:
      >>> from refquant.formats import ALL
      >>> from refquant.qtensor import quantize_tensor
      >>> table = quantize_tensor(np.float32([[1, -127], [2, 0]]), QuantSpec(ALL["int8"]))
      >>> embed(np.array([1, 0]), table).tolist()
      [[2.0, 0.0], [1.0, -127.0]]
    """
    ids, table, result = as_array(ids), frozen(table), result_dtype("embed", dtype)
    check_embed("embed", ids.dtype, table.codes.shape)
    check_weight("embed", table)
    flat, rows = ids.reshape(-1), table.codes.shape[0]
    at = np.where(flat < 0, flat.astype(np.int64) + rows, flat.astype(np.int64))
    known = (at >= 0) & (at < rows)  # LAY-6
    values = _rows(table, at[known], result)
    out = np.full((flat.size, table.codes.shape[1]), np.nan, result)
    out[known] = values
    return out.reshape(*ids.shape, table.codes.shape[1])


def _rows(table: QTensor, rows: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """dequantize(codes)[rows] without dequantizing the rest; each row is given the scales of its tile (GRA-3)."""
    grain, scale, zero = table.spec.granularity, table.scale, table.zero_point
    if isinstance(grain, PerTensor):
        return dequantize(table.codes[rows], scale, zero, fmt=table.spec.fmt, granularity=grain, dtype=dtype)
    height, width = grain.tile(table.codes.shape)
    tiles = rows // height
    return dequantize(
        table.codes[rows],
        scale[tiles],
        None if zero is None else zero[tiles],
        fmt=table.spec.fmt,
        granularity=row_tiles(width),
        dtype=dtype,
    )


@kinds
def attend(
    x: np.ndarray,
    table: QTensor | Trained,
    bias: np.ndarray | None = None,
    *,
    inputs: QuantSpec | None = None,
    input_scale: np.ndarray | None = None,
    input_zero_point: np.ndarray | None = None,
    input_estimator: Estimator = Ste(),
    dtype: np.dtype | type | str = "float32",
) -> np.ndarray:
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
    x, table = real_input("attend", x), frozen(table)
    plan = contractions.attend("attend", x.shape, table.codes.shape)
    static = given("attend", x, inputs, input_scale, input_zero_point, input_estimator)
    return contract("attend", plan, x, table, bias, inputs, static, dtype)
