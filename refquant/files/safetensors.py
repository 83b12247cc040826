"""Reading safetensors files: headers first, then tensors whole (mapped) or in runs of rows."""

from refquant.files._dtypes import FORMAT_NAME, ITEM_BITS, NUMPY_DTYPE, storage_shape, tensor_bytes
from refquant.files._header import MAX_HEADER_BYTES, Header, TensorInfo, read_header
from refquant.files._shards import read_headers
from refquant.files._tensors import iter_rows, read_rows, read_tensor

__all__ = [
    "FORMAT_NAME",
    "ITEM_BITS",
    "MAX_HEADER_BYTES",
    "NUMPY_DTYPE",
    "Header",
    "TensorInfo",
    "iter_rows",
    "read_header",
    "read_headers",
    "read_rows",
    "read_tensor",
    "storage_shape",
    "tensor_bytes",
]
