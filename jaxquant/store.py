"""Quantized safetensors files: written tensor by tensor in bounded memory, resumable; loaded back as QTensors.

The layout is refquant.files.quantized's (specs/65-files.md); codes and scales are jaxquant's, so they are refquant's.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import ml_dtypes
import numpy as np

from jaxquant import qtensor, scales, store_checks, store_stacked
from jaxquant.codec import encode
from jaxquant.packing import pack
from jaxquant.qtensor import QTensor
from jaxquant.store_read import load as load
from jaxquant.store_read import rows
from jaxquant.store_trees import as_array, flatten
from jaxquant.streams import quantized_runs
from refquant import files, formats
from refquant.files.quantized import (
    PREFIX,
    Plan,
    file_metadata,
    plan,
    plan_of,
    predicted_bytes,
)
from refquant.files.runs import spans
from refquant.schemes import Scheme

PIECE = 1 << 24  # elements of a tensor in memory at once
DTYPES = {
    "bool": "BOOL", "uint8": "U8", "int8": "I8", "uint16": "U16", "int16": "I16", "uint32": "U32", "int32": "I32",
    "uint64": "U64", "int64": "I64", "bfloat16": "BF16", "float16": "F16", "float32": "F32", "float64": "F64",
}  # fmt: skip
_ZERO_VIEW = {"int8": np.uint8, "uint8": np.uint8, "int16": np.uint16, "uint16": np.uint16}


def quantize_file(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    scheme: Scheme,
    *,
    overwrite: bool = False,
    resume: bool = True,
    progress: Callable[[str, int, int], None] = lambda name, done, total: None,
    begun: Callable[[files.Writer], None] = lambda writer: None,
) -> tuple[Plan, ...]:
    """Writes the quantized form of a checkpoint as one file; the source is only read (FIL-5).

    Args:
      source: a safetensors file, a folder of shards, or their index.json.
      output: where to; whole or absent afterwards.
      scheme: what to do with linear, conv and embedding tensors.
      overwrite: replace an existing output.
      resume: go on after the last finished tensor of an interrupted run, byte for byte as if it had not stopped.
      progress: called with (tensor, elements done, elements in all).
      begun: called before the first tensor, with what knows whether an interrupted run goes on, and where.
    Returns:
      The plan of every tensor.
    Raises:
      ValueError: a bad file, an output that exists or is the source, a scheme that fits no tensor.
      OSError: a full disk; nothing is left but the resumable part.
    """
    headers = _float_headers(source)
    files.refuse_same(output, [source, *(header.path for header in headers)])
    owner = {info.name: header for header in headers for info in header.tensors}
    plans = plan(tuple(info for header in headers for info in header.tensors), scheme)
    refuse_idle(plans, scheme, source)
    stored = [part for one in plans for part in one.stored()]
    stamp = " ".join([*(files.file_stamp(header.path) for header in headers), str(scheme)])
    metadata = file_metadata(plans, _common_metadata(headers))
    total = sum(one.info.size for one in plans)
    with files.Writer(output, stored, metadata, overwrite=overwrite, resume=resume, source=stamp) as writer:
        begun(writer)
        pending = {info.name for info in writer.pending}
        done = 0
        for one in plans:
            for name, piece in _pieces(owner[one.info.name], one, pending):
                writer.append(name, piece)
            done += one.info.size
            progress(one.info.name, done, total)
    return plans


def _float_headers(source: str | os.PathLike[str]) -> list[files.Header]:
    """The headers of a checkpoint of floats.

    Raises:
      ValueError: a bad file, or one that is quantized already.
    """
    headers = files.read_headers(source)
    for header in headers:
        if PREFIX + "version" in header.metadata:
            raise ValueError(f"quantize: {header.path} is quantized already, need the float source (not its codes)")
    return headers


def _common_metadata(headers: list[files.Header]) -> dict[str, str]:
    """What all shards say alike, such as the format."""
    first, *others = (header.metadata for header in headers)
    return {key: value for key, value in first.items() if all(other.get(key) == value for other in others)}


def refuse_idle(plans: tuple[Plan, ...], scheme: Scheme, path: Any) -> None:
    """A scheme that quantizes nothing is an error, not a copy.

    Raises:
      ValueError: no tensor of the file is linear, conv or embedding in a float dtype that the scheme covers.
    """
    if not plans:
        raise ValueError(f"quantize: {path} has no tensors, need at least one")
    if not any(one.scheme for one in plans):
        why = sorted({one.why for one in plans})
        raise ValueError(f"quantize: scheme '{scheme}' fits no tensor of {path}, need at least one ({'; '.join(why)})")


def write_quantized(
    output: str | os.PathLike[str],
    plans: tuple[Plan, ...],
    quantized: dict[str, QTensor],
    tensor: Callable[[str], np.ndarray],
    metadata: dict[str, str],
    *,
    overwrite: bool = False,
) -> int:
    """Writes tensors that are quantized already; returns the file's bytes.

    Args:
      output: where to; whole or absent afterwards.
      plans: one a tensor.
      quantized: name → QTensor for every plan with a scheme.
      tensor: gives a copied tensor by name.
      metadata: of the source.
      overwrite: replace an existing output.
    """
    stored = [part for one in plans for part in one.stored()]
    with files.Writer(output, stored, file_metadata(plans, metadata), overwrite=overwrite) as writer:
        for one in plans:
            name = one.info.name
            parts = _parts(quantized[name], name) if one.scheme else {name: raw(np.asarray(tensor(name)))}
            for key, value in parts.items():
                writer.append(key, value)
    return predicted_bytes(plans, metadata)


def save(
    path: str | os.PathLike[str],
    tensors: Mapping[str, Any],
    *,
    metadata: Mapping[str, str] | None = None,
    overwrite: bool = False,
) -> int:
    """Writes arrays and QTensors, such as the parameters of a converted model; `load` gives the same bits.

    Args:
      path: where to; whole or absent afterwards.
      tensors: name → array or QTensor, or a tree of dicts, whose tensors are named by their paths: "inner/kernel".
      metadata: of the file, beside its own entries.
      overwrite: replace an existing output.
    Returns:
      The file's bytes.
    Raises:
      TypeError: a dtype that safetensors does not have, a random key, or no array at all.
      ValueError: an output that exists, a spec that a file does not tell (FIL-3), codes, scales or zero points that
        their formats do not hold (FIL-7), or names that collide (FIL-6).
    """
    tensors, told = flatten(tensors), store_checks.checked_metadata(metadata)
    quantized = {name: value for name, value in tensors.items() if isinstance(value, QTensor)}
    for name, q in quantized.items():
        store_checks.check_parts(name, q)
    copied = {name: as_array(name, value) for name, value in tensors.items() if name not in quantized}
    plans = tuple(_plan(name, quantized[name] if name in quantized else copied[name]) for name in tensors)
    quantized = {name: store_stacked.as_whole(q) for name, q in quantized.items()}
    for name, q in quantized.items():
        store_checks.check_stored(name, q)
    return write_quantized(path, plans, quantized, copied.__getitem__, told, overwrite=overwrite)


def _plan(name: str, value: np.ndarray | QTensor) -> Plan:
    if isinstance(value, QTensor):
        return store_stacked.plan_of_layers(name, value)
    if value.dtype.name not in DTYPES:
        raise TypeError(f"save: {name!r} has dtype {value.dtype}, need one of {', '.join(DTYPES)}")
    return plan_of(files.TensorInfo(name, DTYPES[value.dtype.name], value.shape, 0, 0), None)


def raw(value: np.ndarray) -> np.ndarray:
    """A tensor as `Writer` takes it: bfloat16 as its bits."""
    return value.view(np.uint16) if value.dtype == ml_dtypes.bfloat16 else value


def _pieces(header: files.Header, one: Plan, pending: set[str]) -> Iterator[tuple[str, Any]]:
    """What to append for one tensor, skipping parts that an interrupted run has finished."""
    name = one.info.name
    if one.scheme is None:
        if name in pending:
            yield name, files.read_tensor(header, name)
        return
    if not any(part.name in pending for part in one.stored()):
        return
    kept: dict[str, list[np.ndarray]] = {}
    read = partial(rows, header, name)
    for _, q in quantized_runs(qtensor, scales, read, one.info.shape, one.spec, elements=PIECE):
        for key, value in _parts(q, name).items():
            if not key.endswith(".codes"):
                kept.setdefault(key, []).append(value)
            elif key in pending:
                yield key, value
    for key, values in kept.items():
        if key in pending:
            yield key, values[0] if spans(one.info.shape, one.spec.granularity) else np.concatenate(values)


def _parts(q: QTensor, name: str) -> dict[str, np.ndarray]:
    """The stored arrays of a QTensor (FIL-2)."""
    parts = {f"{name}.codes": np.asarray(pack(q.codes, fmt=q.spec.fmt)), f"{name}.scale": _stored_scale(q)}
    if q.zero_point is not None:
        zero = np.asarray(q.zero_point)
        storage = q.spec.fmt.storage
        parts[f"{name}.zero_point"] = (
            zero if zero.dtype == np.float32 else zero.astype(storage).view(_ZERO_VIEW[storage])
        )
    return parts


def _stored_scale(q: QTensor) -> np.ndarray:
    """The scale in its storage format; exact, because the scale rule rounded it to that format."""
    storage, scale = q.spec.scale.storage, np.asarray(q.scale)
    if storage == "float32":
        return scale
    codes = np.asarray(encode(scale, fmt=formats.ALL["e8m0fnu" if storage == "pow2" else storage]))
    return codes.view(np.float16) if storage == "float16" else codes
