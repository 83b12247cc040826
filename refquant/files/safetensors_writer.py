"""Writing a safetensors file piece by piece: bounded memory, whole or absent, resumable."""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

import numpy as np

from refquant.files._dtypes import NUMPY_DTYPE, short, storage_shape, tensor_bytes
from refquant.files._header import MAX_HEADER_BYTES, TensorInfo
from refquant.files._partial import Partial, partial_paths, write_all
from refquant.files.atomic import commit, create, full_disk, refuse_existing, temporary_name


class TensorLike(Protocol):
    """What the writer needs to know of a tensor; `TensorInfo` is one, a tuple (name, dtype, shape) will do."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def dtype(self) -> str: ...  # noqa: D102
    @property
    def shape(self) -> Sequence[int]: ...  # noqa: D102


TensorLikes = Iterable[TensorLike | tuple[str, str, Sequence[int]]]


def layout(tensors: TensorLikes) -> tuple[TensorInfo, ...]:
    """The tensors laid one after the other, in the given order.

    Raises:
      ValueError: a name twice or not usable, an unknown dtype, a shape that does not end at a whole byte.
    """
    result: dict[str, TensorInfo] = {}
    end = 0
    for tensor in tensors:
        name, dtype, shape = tensor if isinstance(tensor, tuple) else (tensor.name, tensor.dtype, tensor.shape)
        if not isinstance(name, str) or name == "__metadata__" or name in result:
            raise ValueError(f"tensor name is {short(name)}, need a text, once, that is not '__metadata__'")
        start, end = end, end + tensor_bytes(name, dtype, tuple(shape))
        result[name] = TensorInfo(name, dtype, tuple(shape), start, end)
    return tuple(result.values())


def predicted_size(tensors: TensorLikes, metadata: Mapping[str, str] | None = None) -> int:
    """Exact bytes of the file that `Writer` makes of these tensors and this metadata.

    Raises:
      ValueError: as `Writer`.
    """
    infos = layout(tensors)
    return len(header_bytes(infos, metadata)) + (infos[-1].end if infos else 0)


def header_bytes(infos: Sequence[TensorInfo], metadata: Mapping[str, str] | None = None) -> bytes:
    """The length and the header, padded to a multiple of 8 bytes; equal input gives equal bytes.

    Raises:
      ValueError: metadata are not texts, text is not Unicode, or the header is over 100 MB.
    """
    pairs = dict(metadata or {})
    if not all(isinstance(text, str) for pair in pairs.items() for text in pair):
        raise ValueError(f"metadata is {short(pairs)}, need texts to texts")
    entries: dict[str, object] = {"__metadata__": dict(sorted(pairs.items()))} if pairs else {}
    for info in infos:
        entries[info.name] = {"dtype": info.dtype, "shape": info.shape, "data_offsets": (info.start, info.end)}
    try:
        text = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(f"header has {short(error.object[error.start])}, need Unicode text") from None
    text += b" " * (-len(text) % 8)
    if len(text) > MAX_HEADER_BYTES:
        raise ValueError(f"header has {len(text)} bytes, need at most {MAX_HEADER_BYTES}")
    return len(text).to_bytes(8, "little") + text


class Writer:
    """Writes tensors in a stated order, in pieces of any size.

    Used in a `with` block: a block that ends well makes the output appear, whole; after any exception the
    output is as it was.  With resume=True the exception leaves PATH.partial and PATH.partial.jsonl, and a
    later Writer with the same arguments goes on after the last finished tensor.

    Attributes:
      path: the output.
      size: its bytes once finished.
      infos: all tensors, in file order.
      pending: the tensors still to be appended, in order.
      state: "new"; "resumed": tensors of an earlier run are kept; "restarted": there was an earlier run, but
        it does not fit, for `reason`.
      reason: "" unless restarted.

    Example:
      >>> import tempfile
      >>> out = Path(tempfile.mkdtemp()) / "out.safetensors"
      >>> with Writer(out, [("codes", "I8", (2, 3))]) as writer:
      ...     for info in writer.pending:
      ...         writer.append(info.name, np.zeros((2, 3), np.int8))
      >>> out.stat().st_size == predicted_size([("codes", "I8", (2, 3))])
      True
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        tensors: TensorLikes,
        metadata: Mapping[str, str] | None = None,
        *,
        overwrite: bool = False,
        resume: bool = False,
        source: str = "",
    ) -> None:
        """Checks everything, then writes the header.

        Args:
          path: the output; its folder exists.
          tensors: TensorInfo, or (name, dtype, shape), in the order in which they will be appended.
          metadata: texts for the file's `__metadata__`.
          overwrite: replace an existing output when this one is finished.
          resume: keep what was done when interrupted, and go on with what an earlier run left.
          source: with resume, whatever must be the same for going on to make sense: digest of the input, options.

        Raises:
          ValueError: output exists, tensors or metadata do not fit the format, or another run writes the same.
          OSError: the folder cannot be written or has less free space than the output needs.
        """
        self.path, self._overwrite = Path(path), overwrite
        self.infos = layout(tensors)
        header = header_bytes(self.infos, metadata)
        self.size = len(header) + (self.infos[-1].end if self.infos else 0)
        refuse_existing(self.path, overwrite=overwrite)
        self._index, self._written, self._digest = 0, 0, hashlib.sha256()
        self._closed, self._committed, self._partial = False, False, None
        self._kept = f"{partial_paths(self.path)[0]} keeps what was done" if resume else "nothing was written"
        self.state, self.reason = "new", ""
        self._check_space(resume=resume)
        if resume:
            self._open_partial(header, source)
        else:
            self._open_temporary(header)

    @property
    def pending(self) -> tuple[TensorInfo, ...]:
        """The tensors not finished yet, in order."""
        return self.infos[self._index :]

    def append(self, name: str, chunk: np.ndarray | bytes | bytearray | memoryview) -> None:
        """The next bytes of a tensor.

        Args:
          name: the tensor, which is pending[0] (tensors without bytes may be left out).
          chunk: bytes; or an array of dtype NUMPY_DTYPE[dtype] that is flat, a run of rows, or the whole.

        Raises:
          ValueError: not this tensor's turn, more bytes than it has, or the shape of another tensor.
          TypeError: dtype of another tensor, or no bytes.
          OSError: the disk refuses; then the writer is aborted.
        """
        info = self._expect(name)
        data = _raw(chunk, info)
        if self._written + data.nbytes > info.nbytes:
            raise ValueError(f"append: {info} gets {self._written + data.nbytes} bytes, need {info.nbytes}")
        try:
            write_all(self._file, data)
            if self._partial:
                self._digest.update(data)
            self._written += data.nbytes
            if self._written == info.nbytes:
                self._finish(info)
        except BaseException as error:
            self.abort()
            self._raise_full(error)
            raise

    def close(self) -> None:
        """Makes the output appear.  Once it has, a further call does nothing.

        Raises:
          ValueError: tensors are missing, or the output has come into being meanwhile, and the writer is now
            aborted; or it was aborted before.
          OSError: the disk refuses; then the writer is aborted.
        """
        if self._committed:
            return
        if self._closed:
            raise ValueError(f"close: writer of {self.path} was aborted; {self._kept}")
        try:
            if (info := self._next()) is not None:
                raise ValueError(f"close: {info} has {self._written} bytes, need {info.nbytes}; {self._kept}")
            commit(self._temporary, self.path, overwrite=self._overwrite)
            if self._partial:
                self._partial.remove_journal()
        except BaseException as error:
            self.abort()
            self._raise_full(error)
            raise
        self._closed = self._committed = True
        self._file.close()

    def abort(self) -> None:
        """Gives up: the temporary is removed; with resume=True partial file and journal stay."""
        if self._closed:
            return
        self._closed = True
        self._file.close()
        if not self._partial:
            self._temporary.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        """The writer."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes, or aborts after an exception."""
        if kind is None:
            self.close()
        else:
            self.abort()

    def _open_partial(self, header: bytes, source: str) -> None:
        try:
            self._partial = Partial(self.path, header, self.infos, source)
        except OSError as error:
            self._raise_full(error)
            raise
        self._file, self._temporary = self._partial.file, self._partial.path
        self._index, self.state, self.reason = self._partial.done, self._partial.state, self._partial.reason

    def _open_temporary(self, header: bytes) -> None:
        self._temporary = temporary_name(self.path)
        try:
            create(self._temporary)
            self._file = open(self._temporary, "r+b", buffering=0)  # noqa: SIM115 closed by close() or abort()
        except BaseException:
            self._temporary.unlink(missing_ok=True)
            raise
        try:
            write_all(self._file, header)
        except BaseException as error:
            self.abort()
            self._raise_full(error)
            raise

    def _check_space(self, *, resume: bool) -> None:
        """Sooner than after hours of work.  Some file systems report no size at all; those are let through."""
        partial = partial_paths(self.path)[0]
        need = self.size - (partial.stat().st_size if resume and partial.exists() else 0)
        usage = shutil.disk_usage(self.path.parent)
        if usage.total and usage.free < need:
            text = f"output needs {need} bytes, its folder has {usage.free} free; nothing was written"
            raise OSError(errno.ENOSPC, text, str(self.path))

    def _expect(self, name: str) -> TensorInfo:
        if self._closed:
            raise ValueError(f"append: writer of {self.path} is closed")
        info = self._next(unless=name)
        if info is None or info.name != name:
            turn = short(info.name) if info else "close"
            raise ValueError(f"append: tensor is {short(name)}, need {turn} (the order of the header)")
        return info

    def _next(self, *, unless: str | None = None) -> TensorInfo | None:
        """The first unfinished tensor, after finishing those without bytes before it."""
        while self._index < len(self.infos):
            info = self.infos[self._index]
            if info.nbytes or info.name == unless:
                return info
            self._finish(info)
        return None

    def _finish(self, info: TensorInfo) -> None:
        if self._partial:
            self._partial.add(info.name, self._digest.hexdigest())
        self._index, self._written, self._digest = self._index + 1, 0, hashlib.sha256()

    def _raise_full(self, error: BaseException) -> None:
        if isinstance(error, OSError) and (full := full_disk(error, self.path, self._kept)) is not None:
            raise full from error


def _raw(chunk: object, info: TensorInfo) -> memoryview:
    if isinstance(chunk, bytes | bytearray | memoryview):
        return memoryview(chunk).cast("B")
    if not isinstance(chunk, np.ndarray):
        raise TypeError(f"append: {info} gets a {type(chunk).__name__}, need an array or bytes")
    dtype, shape = NUMPY_DTYPE[info.dtype], storage_shape(info.dtype, info.shape)
    if chunk.dtype.newbyteorder("<") != dtype:
        raise TypeError(f"append: {info} gets dtype {chunk.dtype}, need {dtype}")
    if chunk.ndim != 1 and (chunk.ndim != len(shape) or chunk.shape[1:] != shape[1:]):
        raise ValueError(f"append: {info} gets shape {chunk.shape}, need rows of {shape}, or one axis")
    return np.ascontiguousarray(chunk, dtype).reshape(-1).view(np.uint8).data
