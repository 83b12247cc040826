"""Pages: docstrings of the installed standard library and NumPy, read from the sources; nothing is imported."""

import ast
import hashlib
import importlib.util
import inspect
import os
import re
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# Tests, generated tables, bundled third-party code and demos: no documentation of the standard library or NumPy.
_SKIP_FOLDERS = """
test tests idlelib lib2to3 site-packages dist-packages turtledemo ensurepip encodings pydoc_data lib-dynload
__pycache__ __phello__ distutils f2py _pyinstaller typing testing
"""
_SKIP = frozenset(_SKIP_FOLDERS.split())
_QUERY_WORDS = (5, 40)
_REST_WORDS = 25
# Lines that hold few words and many tokens: underlines, example code, directives, headings, `name : type`.
_RULE = re.compile(r"^\W*$")
_CODE = re.compile(r"^\s*(>>>|\.\.\.|\.\. )")
_TYPE = re.compile(r"^\S.* : ")
_HEADING = re.compile(
    r"^\s*(Other )?(Parameters|Returns|Yields|Raises|See Also|Notes?|References|Examples?|Attributes|Methods|Warns|"
    r"Warnings|Arg(ument)?s|Usage)\s*:*\s*$"
)
_MARKUP = re.compile(r"(:[\w:]+:)?`+")


@dataclass(frozen=True)
class Page:
    """One docstring: its dotted name (shown only, in no text), its first paragraph, and the rest of it."""

    name: str
    query: str
    text: str

    @property
    def key(self) -> str:
        """What the pages are ordered by: a hash of the text, so that the order says nothing about the source."""
        return hashlib.sha256(f"{self.query}\0{self.text}".encode()).hexdigest()


def read_pages() -> list[Page]:
    """All usable pages of this installation, ordered by the hash of their text, duplicates removed.

    The same installation gives the same list.  A source file that cannot be parsed is passed over.
    """
    pages = sorted((page for root in _roots() for page in _pages_under(*root)), key=lambda page: (page.key, page.name))
    queries, texts, kept = set(), set(), []
    for page in pages:
        if page.query.lower() not in queries and page.text.lower() not in texts:
            kept.append(page)
        queries.add(page.query.lower())
        texts.add(page.text.lower())
    return kept


def _roots() -> list[tuple[str, str]]:
    """(package name, folder) of the standard library and of NumPy, found without importing NumPy."""
    spec = importlib.util.find_spec("numpy")
    numpy = [("numpy", spec.submodule_search_locations[0])] if spec and spec.submodule_search_locations else []
    return [("", sysconfig.get_path("stdlib")), *numpy]


def _pages_under(package: str, root: str) -> Iterator[Page]:
    """The pages of every source file below a folder."""
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if name not in _SKIP and not name.startswith("config-"))
        for name in sorted(names):
            if name.endswith(".py") and name != "conftest.py":
                path = Path(folder, name)
                yield from _pages_of(path, (*package.split(), *path.relative_to(root).with_suffix("").parts))


def _pages_of(path: Path, module: tuple[str, ...]) -> Iterator[Page]:
    """The pages of one file: of public functions, classes and methods."""
    source = path.read_bytes()
    if b'"""' not in source and b"'''" not in source:
        return
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return
    for owner, node in _definitions(tree):
        found = _split(inspect.cleandoc(ast.get_docstring(node, clean=False) or ""))
        if found:
            yield Page(_dotted(module, (*owner, node.name)), *found)


def _definitions(node: ast.AST, owner: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], ast.AST]]:
    """Public functions and classes of a module, and public methods, with the names of the classes around them."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) or child.name.startswith("_"):
            continue
        yield owner, child
        if isinstance(child, ast.ClassDef):
            yield from _definitions(child, (*owner, child.name))


def _dotted(module: tuple[str, ...], names: tuple[str, ...]) -> str:
    """The name under which a user knows it: private modules and NumPy's inner packages left out."""
    if module[:2] in (("numpy", "_core"), ("numpy", "lib")):
        module = ("numpy",)
    return ".".join([part for part in module if not part.startswith("_")] + list(names))


def _split(docstring: str) -> tuple[str, str] | None:
    """(first paragraph, rest) as plain text; None where one is too short, the first too long or copied in the rest."""
    query, _, text = docstring.partition("\n\n")
    query, text = _plain(query), _plain(text)
    fits = _QUERY_WORDS[0] <= len(query.split()) <= _QUERY_WORDS[1] and len(text.split()) >= _REST_WORDS
    copied = query.rstrip(".").lower() in text.lower()
    return (query, text) if fits and not copied else None


def _plain(text: str) -> str:
    """One line of prose: without markup and without the lines that are none."""
    noise = (_RULE, _CODE, _TYPE, _HEADING)
    lines = [line for line in text.splitlines() if not any(pattern.match(line) for pattern in noise)]
    return " ".join(_MARKUP.sub("", " ".join(lines)).split())
