"""The golden vectors: `python specs/vectors.py write` makes them, `check` says whether they are stale.

refquant computes what a case expects; a case is written only where the third opinion in tests/exact*.py agrees.
A released case never changes: `write` refuses to change or drop an id unless told that it was never released.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
AT = ROOT / "specs" / "vectors"
COMMAND = "python specs/vectors.py write"
LIMIT = 400_000  # of a file; a format adds 1 to 8 kB to some of them
BY_HAND = ("schema.json", "README.md")


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    sys.path[:0] = [path for path in (str(ROOT), str(ROOT / "tests")) if path not in sys.path]
    if options.command == "check":
        return check(options.at)
    return write(options.at, unreleased=options.unreleased)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vectors.py", description="Write or check the golden vectors in specs/vectors."
    )
    parser.epilog = "exit codes: 0 done or up to date, 1 stale or refused, 2 usage"
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (
        ("write", "compute all files; refuse where the third opinion disagrees"),
        ("check", "exit 1 where a file is not what the code gives"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("--at", type=Path, default=AT, help="another folder than specs/vectors")
        if name == "write":
            command.add_argument(
                "--unreleased", action="store_true", help="let ids change or go: they were in no release"
            )
    return parser


def check(at: Path) -> int:
    """0 where every file is what the code gives, else 1 and the command that writes them."""
    from specs.vector_cases.build import build, case_files

    complaints = stale(build(case_files()), at)
    for line in complaints:
        print(line)
    if complaints:
        print(f"{len(complaints)} stale.  To write them: {COMMAND}")
    return 1 if complaints else 0


def stale(files: dict[str, str], at: Path) -> list[str]:
    """What differs on disk, a line a file; line numbers count from 1."""
    found = []
    for path, text in files.items():
        if not (at / path).is_file():
            found.append(f"{path}: missing")
        elif (have := (at / path).read_bytes()) != text.encode():
            found.append(f"{path}: line {_first_line(have, text.encode())} differs")
    return found + [f"{path}: not made by any case" for path in sorted(on_disk(at) - set(files))]


def _first_line(have: bytes, want: bytes) -> int:
    rows = zip(have.split(b"\n"), want.split(b"\n"), strict=False)
    same = next((i for i, (a, b) in enumerate(rows, 1) if a != b), None)
    return same or min(have.count(b"\n"), want.count(b"\n")) + 1


def on_disk(at: Path) -> set[str]:
    paths = (path.relative_to(at).as_posix() for path in at.rglob("*.json*") if path.is_file())
    return {path for path in paths if path not in BY_HAND}


def write(at: Path, *, unreleased: bool) -> int:
    """Write all files, or none and say why."""
    from specs.vector_cases.build import build, case_files, refusals

    cases = case_files()
    files = build(cases)
    complaints = [*refusals(cases), *_sizes(files), *([] if unreleased else changed(files, at))]
    for line in complaints:
        print(line)
    if complaints:
        print(f"nothing written: {len(complaints)} refused")
        return 1
    for path in on_disk(at) - set(files):
        (at / path).unlink()
    for path, text in files.items():
        _replace(at / path, text)
    print(
        f"{len(files)} files, {sum(len(f.cases) for f in cases)} cases, {sum(map(len, files.values())):,} bytes in {at}"
    )
    return 0


def _sizes(files: dict[str, str]) -> list[str]:
    return [
        f"{path}: {len(text.encode()):,} bytes, need at most {LIMIT:,}"
        for path, text in files.items()
        if len(text.encode()) > LIMIT
    ]


def changed(files: dict[str, str], at: Path) -> list[str]:
    """Ids on disk whose case would change or go: a released case never does, a wrong one is withdrawn."""
    found = []
    for path in sorted(on_disk(at)):
        new = by_id(files.get(path, ""))
        for name, row in by_id((at / path).read_text("utf-8")).items():
            if name not in new or (new[name] != row and "withdrawn" not in new[name]):
                what = "would change" if name in new else "would go"
                found.append(
                    f"{path}: {name} {what}: need a new id and this one withdrawn (withdrawn.py), or --unreleased"
                )
    return found


def by_id(text: str) -> dict[str, dict]:
    """The cases of a file, or its tables."""
    if not text:
        return {}
    if text.startswith('{"schema"') and '"tables":[\n' in text:
        return {row["id"]: row for row in json.loads(text)["tables"]}
    return {row["id"]: row for row in map(json.loads, text.splitlines()) if "id" in row}


def _replace(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, "utf-8", newline="\n")
    os.replace(partial, path)


if __name__ == "__main__":
    sys.exit(main())
