"""Files: safetensors read and written, outputs that are whole or absent, digests.  No arithmetic on values."""

from refquant.files._partial import partial_paths
from refquant.files.atomic import atomic_path, refuse_existing, refuse_same, refuse_unwritable
from refquant.files.digest import file_stamp, sha256_file
from refquant.files.errors import UnreadableFile
from refquant.files.safetensors import (
    FORMAT_NAME,
    ITEM_BITS,
    NUMPY_DTYPE,
    Header,
    TensorInfo,
    iter_rows,
    read_header,
    read_headers,
    read_rows,
    read_tensor,
    storage_shape,
    tensor_bytes,
)
from refquant.files.safetensors_writer import Writer, predicted_size

__all__ = [
    "FORMAT_NAME",
    "ITEM_BITS",
    "NUMPY_DTYPE",
    "Header",
    "TensorInfo",
    "UnreadableFile",
    "Writer",
    "atomic_path",
    "file_stamp",
    "iter_rows",
    "partial_paths",
    "predicted_size",
    "read_header",
    "read_headers",
    "read_rows",
    "read_tensor",
    "refuse_existing",
    "refuse_same",
    "refuse_unwritable",
    "sha256_file",
    "storage_shape",
    "tensor_bytes",
]
