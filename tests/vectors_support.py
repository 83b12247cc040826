"""The golden vectors as the tests read them."""

from __future__ import annotations

import functools
import json

from specs import vectors

CASES = sorted(path.relative_to(vectors.AT).as_posix() for path in vectors.AT.rglob("*.jsonl"))
TABLES = sorted(path.relative_to(vectors.AT).as_posix() for path in (vectors.AT / "25-conventions").glob("*.json"))


@functools.cache
def rows(path: str) -> list[dict]:
    return [json.loads(line) for line in (vectors.AT / path).read_text("utf-8").splitlines()]


def cases(path: str) -> list[dict]:
    return [row for row in rows(path)[1:] if "withdrawn" not in row]


def alternatives(expect: dict) -> list[dict]:
    return expect.get("any_of", [expect])
