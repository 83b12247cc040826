"""The mutants of a module, made by Cosmic Ray, and how a forked process comes to run one.

Left out, because nothing can be learnt from them: annotations; `==` made `is` and back (the same on small ints and
on words); a text whose syntax tree another one has; a text that is no Python.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import functools
import hashlib
import importlib.machinery
import importlib.util
import inspect
import json
import sys
import types
import warnings
from collections.abc import Iterator
from pathlib import Path

import cosmic_ray.plugins
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code

ROOT = Path(__file__).resolve().parent.parent
KNOWN = ROOT / ".mutants"
SAME = {"Eq_Is", "Is_Eq", "NotEq_IsNot", "IsNot_NotEq"}
IS_FUNCTION = inspect.CO_OPTIMIZED  # a class body's code has no such flag


@dataclasses.dataclass(frozen=True)
class Mutant:
    """One change to one module: the lines from `start` to `stop` become others."""

    module: str
    operator: str
    start: int
    stop: int
    became: tuple[str, ...]

    @functools.cached_property
    def text(self) -> str:
        lines = source_of(self.module).split("\n")
        return "\n".join([*lines[: self.start], *self.became, *lines[self.stop :]])

    @functools.cached_property
    def digest(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()[:16]

    def told(self) -> dict:
        """What a reader needs."""
        was = source_of(self.module).split("\n")[self.start : self.stop]
        return {
            "line": self.start + 1,
            "was": " / ".join(line.strip() for line in was),
            "became": " / ".join(line.strip() for line in self.became),
        }


def path_of(module: str) -> Path:
    """refquant/affine.py of "affine", refquant/formats/__init__.py of "formats"."""
    plain = ROOT / "refquant" / f"{module.replace('.', '/')}.py"
    return plain if plain.exists() else plain.with_suffix("") / "__init__.py"


@functools.cache
def source_of(module: str) -> str:
    """The text of the module as it is."""
    return path_of(module).read_text(encoding="utf-8")


def mutants(module: str) -> list[Mutant]:
    """All of a module, in the operators' order; kept in a file, for making them takes a while."""
    source = source_of(module)
    store = KNOWN / f"{module}-{hashlib.sha256(source.encode()).hexdigest()[:16]}.json"
    if not store.exists():
        KNOWN.mkdir(exist_ok=True)
        store.write_text(json.dumps([dataclasses.asdict(m) for m in made(module, source)]))
    return [Mutant(**{**m, "became": tuple(m["became"])}) for m in json.loads(store.read_text())]


def made(module: str, source: str) -> Iterator[Mutant]:
    """The mutants of a text, each once."""
    hidden, seen = annotations(source), {ast.dump(ast.parse(source))}
    nodes = list(ast_nodes(get_ast(source)))
    for name in cosmic_ray.plugins.operator_names():
        operator = cosmic_ray.plugins.get_operator(name)
        if operator.arguments() or name.endswith("NoOp") or name.split("Operator_")[-1] in SAME:
            continue
        positions = [p for node in nodes for p in operator().mutation_positions(node)]
        for occurrence, (start, _) in enumerate(positions):
            if any(low <= start < high for low, high in hidden):
                continue
            text = mutate_code(source, operator(), occurrence)
            shape = shape_of(text)
            if shape and shape not in seen:
                seen.add(shape)
                yield Mutant(module, name.split("/")[-1], *changed_lines(source, text))


def shape_of(text: str | None) -> str | None:
    """The syntax tree in words; None of what is no Python."""
    with warnings.catch_warnings(), contextlib.suppress(SyntaxError):
        warnings.simplefilter("ignore")
        compile(text or "", "mutant", "exec")
        return ast.dump(ast.parse(text or ""))
    return None


def annotations(source: str) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Where the annotations stand."""
    found: list[ast.expr] = []
    for node in ast.walk(ast.parse(source)):
        for field in ("annotation", "returns"):
            value = getattr(node, field, None)
            if isinstance(value, ast.expr):
                found.append(value)
    return [((n.lineno, n.col_offset), (n.end_lineno or 0, n.end_col_offset or 0)) for n in found]


def changed_lines(source: str, text: str) -> tuple[int, int, tuple[str, ...]]:
    """Between the lines that both texts begin with and those that both end with: where, and what stands there now."""
    old, new = source.split("\n"), text.split("\n")
    start = next(i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b)
    back = next(i for i, (a, b) in enumerate(zip(reversed(old), reversed(new), strict=False)) if a != b)
    back = min(back, len(old) - start, len(new) - start)
    return start, len(old) - back, tuple(new[start : len(new) - back])


# A change inside a function: the function gets the new code in place, in a process that has imported everything.


def compiled(text: str, module: str) -> types.CodeType:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return compile(text, str(path_of(module)), "exec", dont_inherit=True)


def parts(code: types.CodeType) -> tuple[list, dict[str, types.CodeType]]:
    """What an import runs, as something to compare; and the code of the functions by their qualified names."""
    skeleton: list = [code.co_code, code.co_names, code.co_varnames]
    functions: dict[str, types.CodeType] = {}
    for value in code.co_consts:
        if not isinstance(value, types.CodeType):
            skeleton.append(repr(value))
        elif value.co_flags & IS_FUNCTION:
            functions[value.co_qualname] = value
        else:
            below, more = parts(value)
            skeleton.append(below)
            functions |= more
    return skeleton, functions


def changed_function(mutant: Mutant) -> tuple[str, types.CodeType] | None:
    """The one function that the mutant changes, and its new code; None where an import would run something else."""
    before, old = parts(compiled(source_of(mutant.module), mutant.module))
    after, new = parts(compiled(mutant.text, mutant.module))
    changed = [name for name in new if name not in old or not same_code(new[name], old[name])]
    if before != after or len(changed) != 1 or "<" in changed[0]:
        return None
    return changed[0], new[changed[0]]


def same_code(a: types.CodeType, b: types.CodeType) -> bool:
    pairs = list(zip(a.co_consts, b.co_consts, strict=False))
    inner = all(
        same_code(x, y) if isinstance(x, types.CodeType) and isinstance(y, types.CodeType) else repr(x) == repr(y)
        for x, y in pairs
    )
    return inner and len(a.co_consts) == len(b.co_consts) and a.co_code == b.co_code and a.co_names == b.co_names


def function_of(module: str, qualname: str) -> types.FunctionType | None:
    """The plain function behind decorators and descriptors."""
    value: object = sys.modules[f"refquant.{module}"]
    for name in qualname.split("."):
        value = vars(value).get(name)
    for field in ("fget", "func", "__func__"):
        value = getattr(value, field, None) or value
    value = inspect.unwrap(value) if callable(value) else None
    return value if isinstance(value, types.FunctionType) else None


# A change that an import runs: a process that has not imported refquant yet is given the mutant's text.


class Loader(importlib.machinery.SourceFileLoader):
    """Gives a module another text than its file's."""

    def __init__(self, name: str, mutant: Mutant):
        super().__init__(name, str(path_of(mutant.module)))
        self.mutant = mutant

    def get_code(self, fullname: str) -> types.CodeType:
        return compiled(self.mutant.text, self.mutant.module)


class Finder:
    """Finds one module, with the text of a mutant."""

    def __init__(self, mutant: Mutant):
        self.mutant, self.name = mutant, f"refquant.{mutant.module}"

    def find_spec(self, name: str, path: object = None, target: object = None):
        if name != self.name:
            return None
        file = path_of(self.mutant.module)
        folders = [str(file.parent)] if file.name == "__init__.py" else None
        loader = Loader(name, self.mutant)
        return importlib.util.spec_from_file_location(name, file, loader=loader, submodule_search_locations=folders)
