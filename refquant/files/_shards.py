"""Checkpoints of several files: a folder, or an index that lists its shards."""

import os
from collections.abc import Iterable
from pathlib import Path, PureWindowsPath

from refquant.files._dtypes import short
from refquant.files._header import MAX_HEADER_BYTES, Header, read_header, regular_size
from refquant.files._json import json_object
from refquant.files.errors import UnreadableFile

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"


def read_headers(path: str | os.PathLike[str]) -> list[Header]:
    """The headers of a checkpoint, one a file, in the order of the file names.

    Args:
      path: a safetensors file; an index (`*.json`) that lists shards beside it; or a folder, in which
        model.safetensors, then model.safetensors.index.json, then all *.safetensors are looked for.

    Returns:
      At least one Header.  No tensor name stands in two of them.

    Raises:
      ValueError: nothing found, a shard is missing or malformed, or the index does not fit the shards.
      OSError: a file cannot be read.
    """
    path = Path(path)
    try:
        if path.is_dir():
            return _read_folder(path)
        return _read_index(path) if path.suffix == ".json" else [read_header(path)]
    except ValueError as error:
        raise UnreadableFile(str(error)) from None


def _read_folder(folder: Path) -> list[Header]:
    if (folder / SINGLE).exists():
        return [read_header(folder / SINGLE)]
    if (folder / INDEX).exists():
        return _read_index(folder / INDEX)
    # hidden files are temporaries of a writer at work
    files = sorted(p for p in folder.iterdir() if p.suffix == ".safetensors" and not p.name.startswith("."))
    if not files:
        raise ValueError(f"{folder}: folder has no *.safetensors, need at least one")
    return _distinct([read_header(file) for file in files])


def _read_index(path: Path) -> list[Header]:
    """Tensors in a shard that the index does not name are kept; names that no shard has are an error."""
    weight_map = _weight_map(path)
    headers = {}
    for shard in sorted(set(weight_map.values())):
        if not (path.parent / shard).exists():
            raise ValueError(f"{path}: index names shard {short(shard)}, not found beside it (incomplete download?)")
        headers[shard] = read_header(path.parent / shard)
    for name, shard in weight_map.items():
        if name not in headers[shard].by_name:
            raise ValueError(f"{path}: index says tensor {short(name)} is in {short(shard)}, but it is not")
    return _distinct(headers.values())


def _weight_map(path: Path) -> dict[str, str]:
    if (size := regular_size(path)) > MAX_HEADER_BYTES:
        raise ValueError(f"{path}: index has {size} bytes, need at most {MAX_HEADER_BYTES}")
    try:
        weight_map = json_object(path.read_bytes(), "index").get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise ValueError("index has no weight_map, need an object: tensor name to shard file")
        for shard in weight_map.values():
            _check_inside(shard)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return weight_map


def _check_inside(shard: object) -> None:
    """Checked on the text alone: download caches make shards symlinks to elsewhere, and that is theirs to do."""
    parts = PureWindowsPath(shard) if isinstance(shard, str) else None  # splits at both / and \
    if not parts or "\0" in str(parts) or parts.anchor or ".." in parts.parts or not parts.name:
        raise ValueError(f"index names shard {short(shard)}, need a file name inside the index's folder")


def _distinct(headers: Iterable[Header]) -> list[Header]:
    headers, owner = list(headers), {}
    for header in headers:
        for name in header.by_name:
            if name in owner:
                raise ValueError(f"{header.path}: tensor {short(name)} is also in {owner[name]}, need it once")
            owner[name] = header.path
    return headers
