"""What a file can hold of a QTensor: checked before anything is written, and again when it is read."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np

from jaxquant.codec import decode, encode
from jaxquant.qtensor import QTensor
from refquant import formats
from refquant.files import Header, UnreadableFile, iter_rows
from refquant.formats import Format, IntFormat
from refquant.spec import QuantSpec

FLOATS = ("BF16", "F16", "F32", "F64", "C64")


def not_finite(headers: list[Header]) -> dict[str, int]:
    """Tensor → how many of its elements are NaN or infinite, of those that have any; read piece by piece.

    Spec: CMD-7 (specs/80-commands.md).
    """
    found: Counter[str] = Counter()
    for header in headers:
        for info in header.tensors:
            if info.dtype in FLOATS:
                for piece in iter_rows(header, info.name):
                    values = piece.view(ml_dtypes.bfloat16) if info.dtype == "BF16" else piece
                    found[info.name] += int(values.size - np.count_nonzero(np.isfinite(values)))
    return {name: count for name, count in found.items() if count}


def checked_metadata(metadata: Any) -> dict[str, str]:
    """The metadata of a file as a dict of texts.

    Raises:
      TypeError: anything else.
    """
    if not isinstance(metadata, Mapping | None):
        raise TypeError(f"save: metadata is a {type(metadata).__name__}, need a dict of texts (text to text)")
    for key, value in (metadata or {}).items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise TypeError(f"save: metadata has {key!r}: {value!r}, need text to text (safetensors holds no other)")
    return dict(metadata or {})


def check_parts(name: str, q: QTensor) -> None:
    """Codes, scale and zero point are arrays with values, the scale float32.

    Raises:
      TypeError: one is not.
    """
    for what, value in (("codes", q.codes), ("scale", q.scale), ("zero point", q.zero_point)):
        absent = value is None and what == "zero point"
        if not absent and not isinstance(value, np.ndarray | np.generic | jax.Array):
            raise TypeError(f"save: the {what} of {name!r} is a {type(value).__name__}, need an array (of a QTensor)")
    if q.scale.dtype != np.float32:
        raise TypeError(f"save: the scale of {name!r} has dtype {q.scale.dtype}, need float32 (GEN-1)")


def check_stored(name: str, q: QTensor) -> None:
    """The parts of a QTensor are what its spec says, and the file's formats hold them.

    Raises:
      TypeError: codes or zero points of another dtype.
      ValueError: a code or a zero point that the format does not have; a zero point that the spec has and the tensor
        lacks, or the other way round; a spec of another rank; a scale of another shape, or one that its storage format
        does not hold.
    """
    try:
        shape = q.spec.granularity.scale_shape(q.shape)
    except ValueError as error:
        raise ValueError(f"save: {name!r} has a spec of another rank: {error}") from None
    _check_codes(name, q)
    _check_shape(name, "scale", q.scale, shape)
    _check_scale(name, q)
    _check_zero_point(name, q, shape)


def _check_codes(name: str, q: QTensor) -> None:
    codes = np.asarray(q.codes)
    if codes.dtype != q.spec.fmt.storage:
        raise TypeError(f"save: the codes of {name!r} have dtype {codes.dtype}, need {q.spec.fmt.storage}")
    _check_inside("save:", name, "code", codes, q.spec.fmt)


def check_read(path: Path, name: str, codes: Any, zero_point: np.ndarray | None, spec: QuantSpec) -> None:
    """Codes and zero points of a file are those of the format.

    Raises:
      UnreadableFile: one is not.
    """
    try:
        _check_inside(f"{path}:", name, "code", np.asarray(codes), spec.fmt)
        if zero_point is not None and spec.scale.zero == "int":
            _check_inside(f"{path}:", name, "zero point", zero_point, spec.fmt)
    except ValueError as error:
        raise UnreadableFile(str(error)) from None


def _check_inside(where: str, name: str, what: str, values: np.ndarray, fmt: Format) -> None:
    low, high = (fmt.qmin, fmt.qmax) if isinstance(fmt, IntFormat) else (0, 2**fmt.bits - 1)
    outside = values[(values < low) | (values > high)]
    if outside.size:
        raise ValueError(f"{where} {name!r} has a {what} of {outside.flat[0]}, need {low}..{high} ({fmt.name})")


def _check_shape(name: str, what: str, value: Any, shape: tuple[int, ...]) -> None:
    if tuple(np.shape(value)) != shape:
        raise ValueError(
            f"save: the {what} of {name!r} has shape {tuple(np.shape(value))}, need {shape} by its spec (or, of layers "
            "stacked for a scan along the first axes, these axes and those of one layer's, FIL-8)"
        )


def _check_scale(name: str, q: QTensor) -> None:
    storage = q.spec.scale.storage
    if storage == "float32":
        return
    fmt = formats.ALL["e8m0fnu" if storage == "pow2" else storage]
    if not np.array_equal(np.asarray(decode(encode(q.scale, fmt=fmt), fmt=fmt)), np.asarray(q.scale)):
        raise ValueError(
            f"save: the scale of {name!r} is not a {storage} number, need a scale rule with float32 storage (a learned "
            "scale is a float32 number, EST-1)"
        )


def _check_zero_point(name: str, q: QTensor, shape: tuple[int, ...]) -> None:
    kind, zero = q.spec.scale.zero, q.zero_point
    if (kind == "none") != (zero is None):
        has, need = ("no zero point", "one") if zero is None else ("a zero point", "none")
        raise ValueError(f"save: {name!r} has {has}, need {need}: its scale rule has zero {kind!r}")
    if zero is None:
        return
    _check_shape(name, "zero point", zero, shape)
    values, dtype = np.asarray(zero), "float32" if kind == "float" else "int32"
    if values.dtype != dtype:
        raise TypeError(f"save: the zero point of {name!r} has dtype {values.dtype}, need {dtype} (zero {kind!r})")
    if kind == "int":
        _check_inside("save:", name, "zero point", values, q.spec.fmt)
