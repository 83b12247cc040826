"""Case and VectorFile: what a line and a file of vectors hold."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from specs.vector_cases import options as encoded
from specs.vector_cases.arrays import Array
from specs.vector_cases.flags import FLAGS

SCHEMA, LICENSE = 1, "CC0-1.0"
Arrays = dict[str, Array]


@dataclass(frozen=True)
class Case:
    """One call.

    Attributes:
      id: permanent; a wrong case is withdrawn under it.
      fn: module and function, without the package.
      args: arrays by parameter name; a missing one is None.
      rule: what it is about.
      flags: the bugs that it catches.
      options: keyword options as objects.
      flushed: results that are subnormal may be zero too (GEN-9 outside the domain of GEN-8): any_of.
      unspecified: the rule that leaves the result open, "" where none does.
    """

    id: str
    fn: str
    args: Arrays
    rule: str
    flags: tuple[str, ...] = ()
    options: dict = field(default_factory=dict)
    flushed: bool = False
    unspecified: str = ""

    def json(self, expect: Arrays) -> dict:
        return {
            "id": self.id,
            "fn": self.fn,
            "options": {k: encoded.to_json(v) for k, v in self.options.items()},
            "args": {k: v.json() for k, v in self.args.items()},
            "expect": self._expected(expect),
            "rule": self.rule,
            "flags": list(self.flags),
        }

    def _expected(self, expect: Arrays) -> dict:
        if self.unspecified:
            return {"unspecified": self.unspecified}
        exact = {k: v.json(any_nan=self.fn not in NAN_IS_EXACT) for k, v in expect.items()}
        return (
            {"any_of": [exact, {k: _zeroed(v).json(any_nan=True) for k, v in expect.items()}]}
            if self.flushed
            else exact
        )


NAN_IS_EXACT = ("codec.decode",)  # DCD-1 names the pattern


def _zeroed(values: Array) -> Array:
    """Binary32 subnormals as the zero of their sign."""
    return Array(values.dtype, values.shape, tuple(b & 0x80000000 if not b & 0x7F800000 else b for b in values.bits))


@dataclass(frozen=True)
class VectorFile:
    """All cases of one function (or of one side of it).

    Attributes:
      chapter: the spec chapter, without ".md".
      name: of the file, without ".jsonl".
      rules: the rules that the cases are about.
      cases: in order.
      function: module and function.
      opinion: whether tests/exact*.py has a third opinion on the function.
    """

    chapter: str
    name: str
    rules: str
    cases: tuple[Case, ...]
    function: str
    opinion: bool = True

    @property
    def path(self) -> str:
        return f"{self.chapter}/{self.name}.jsonl"

    def header(self) -> dict:
        used = sorted({flag for case in self.cases for flag in case.flags})
        return {
            "schema": SCHEMA, "function": self.function, "chapter": self.chapter, "license": LICENSE,
            "rules": self.rules, "opinion": self.opinion, "flags": {flag: FLAGS[flag] for flag in used},
        }  # fmt: skip


def vector_file(chapter: str, name: str, rules: str, cases: Iterable[Case], *, opinion: bool = True) -> VectorFile:
    cases = tuple(cases)
    return VectorFile(chapter, name, rules, cases, cases[0].fn, opinion)
