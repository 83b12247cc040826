"""The golden vectors as files: where they are and what they hold (specs/vectors/<chapter>/<name>.jsonl)."""

import difflib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import refquant


@dataclass(frozen=True)
class VectorFile:
    """A file of cases: its path, its name (`10-formats/encode`), its header line, and the cases."""

    path: Path
    name: str
    header: dict[str, Any]
    cases: tuple[dict[str, Any], ...]

    @property
    def function(self) -> str:
        """Module and function, without the package."""
        return str(self.header.get("function") or (self.cases[0].get("fn", "") if self.cases else ""))

    def is_about(self, name: str) -> bool:
        """Whether a name means this file: `encode`, `codec.encode`, `10-formats`, `10-formats/encode`."""
        known = (self.function, self.function.rpartition(".")[2], self.name, *self.name.split("/"))
        return name.removesuffix(".jsonl") in known


def folder(given: str | None) -> Path:
    """The folder given, or specs/vectors of the checkout that the package or the working directory is in.

    Raises:
      OSError: no such folder.
    """
    if given is not None:
        if Path(given).is_dir():
            return Path(given)
        raise OSError(f"{given} is no folder, need one with the vectors (--from FOLDER)")
    for root in (Path(refquant.__file__).parent.parent, Path.cwd(), *Path.cwd().parents):
        if any((root / "specs" / "vectors").rglob("*.jsonl")):
            return root / "specs" / "vectors"
    raise OSError(
        "there are no vectors in specs/vectors beside the package or the working directory, need --from FOLDER"
    )


def read_all(where: Path) -> list[VectorFile]:
    """Every file of cases below a folder, by name.

    Raises:
      OSError: none, or one that cannot be read.
    """
    paths = sorted(where.rglob("*.jsonl"))
    if not paths:
        raise OSError(f"{where} holds no .jsonl file, need the vectors (python specs/vectors.py write makes them)")
    return [read(path, where) for path in paths]


def read(path: Path, where: Path) -> VectorFile:
    """One file: a header line without an id, then a case a line.

    Raises:
      OSError: a line that is no case.
    """
    header: dict[str, Any] = {}
    cases: list[dict[str, Any]] = []
    for number, row in lines(path.read_bytes(), str(path)):
        if "id" in row:
            if not isinstance(row.get("expect"), dict):
                raise OSError(f"{path}, line {number}: the case has no 'expect', need an object")
            cases.append(row)
        elif number == 1:
            header = row
        else:
            raise OSError(f"{path}, line {number}: the case has no 'id', need one")
    return VectorFile(path, path.relative_to(where).with_suffix("").as_posix(), header, tuple(cases))


def lines(data: bytes, name: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """The JSON objects of a JSON Lines text with their line numbers; empty lines are left out.

    Raises:
      OSError: a line that is no JSON object.
    """
    for number, line in enumerate(data.splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise OSError(f"{name}, line {number}: no JSON ({error})") from None
        if not isinstance(row, dict):
            raise OSError(f"{name}, line {number}: {type(row).__name__}, need a JSON object")
        yield number, row


def about(files: list[VectorFile], name: str) -> list[VectorFile]:
    """The files that a name means.

    Raises:
      ValueError: none; the message has the nearest names.
    """
    found = [file for file in files if file.is_about(name)]
    if found:
        return found
    names = sorted({part for file in files for part in (file.name, file.name.split("/")[-1], file.function)})
    near = ", ".join(difflib.get_close_matches(name, names, 3, 0.4)) or "`refquant vectors list` has them"
    raise ValueError(f"there are no vectors of {name!r}; nearest: {near}")
