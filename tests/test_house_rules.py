"""What the syntax tree says about the house: seams, sizes, docstrings, imports, words."""

import ast
import pathlib
import re
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
FILES = [p for folder in ("refquant", "jaxquant") for p in sorted((ROOT / folder).rglob("*.py"))]
#: Parts of jaxquant that compute no code or value that the exact rules speak of.
NOT_EXACT = {
    "decide", "cli", "models", "flax", "look.py", "diff.py", "distances.py", "doctor.py", "pictures.py", "grids.py",
    "store.py", "sizes.py",
}  # fmt: skip
EXACT = [p for p in FILES if p.parts[-2:] != ("jaxquant", "_exact.py") and "jaxquant" in p.parts
         and not NOT_EXACT & set(p.relative_to(ROOT).parts)]  # fmt: skip
BANNED_CALLS = {
    "sum", "mean", "prod", "var", "std", "average", "cumsum", "exp", "exp2", "expm1", "log", "log2", "log10", "log1p",
    "power", "float_power", "dot", "matmul", "tensordot", "vdot", "inner", "einsum", "divide", "true_divide",
    "reciprocal", "rsqrt", "div", "logsumexp", "norm",
}  # fmt: skip
#: What jaxquant's array modules may take from refquant: data, ints, strings, shapes.
ALLOWED = {
    "formats",
    "conventions",
    "estimators",
    "granularity",
    "checks",
    "kinds",
    "layer_checks",
    "sum_checks",
    "windows",
    "contractions",
    "spec",
    "schemes",
    "files",
}
#: Expressions that look like breaks and are none: quotients of Python ints at trace time, sums of int32 (SUM-2).
KNOWN = {
    "jaxquant/calibration/_totals.py": {"lax.cumsum(piece, axis=piece.ndim - 1)"},
    "jaxquant/calibration/entropy.py": {"lax.cumsum(h)"},
    "jaxquant/calibration/mse.py": {"np.arange(101, dtype=np.float32) / np.float32(100)"},
    "jaxquant/qat/grouped.py": {"rows / tiles", "a.shape[batch] / max(1, AT_ONCE // max(held, 1))"},
    "jaxquant/qat/integer.py": {
        "depth * max_a * max_b / FLOAT_EXACT", "depth / max(count, 1)", "a.shape[-1] / size",
        "width / math.ceil(width / size)", "width / size",
    },
}  # fmt: skip


def tree_of(path: pathlib.Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def name_of(path: pathlib.Path) -> str:
    return str(path.relative_to(ROOT))


def functions(tree: ast.Module) -> list[ast.FunctionDef]:
    return [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]


def seam_breaks(source: str) -> list[str]:
    """Float `/`, `@` and library reductions or transcendentals of jnp, lax or jax.numpy."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div | ast.MatMult) and not of_python(node):
            found.append(f"line {node.lineno}: {ast.unparse(node)}")
        if isinstance(node, ast.Call) and is_banned(node.func) and not integer_sum(node):
            found.append(f"line {node.lineno}: {ast.unparse(node)}")
    return found


def is_banned(called: ast.expr) -> bool:
    return isinstance(called, ast.Attribute) and called.attr in BANNED_CALLS and root(called) in ("jnp", "lax", "jax")


def of_python(node: ast.BinOp) -> bool:
    """A quotient of constants is Python arithmetic before tracing."""
    return all(isinstance(side, ast.Constant) for side in (node.left, node.right))


def integer_sum(node: ast.Call) -> bool:
    """`dtype=jnp.int32` says that the sum is one of integers (SUM-2)."""
    return any(k.arg == "dtype" and "int" in ast.unparse(k.value) for k in node.keywords)


def root(node: ast.expr) -> str:
    while isinstance(node, ast.Attribute):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


@pytest.mark.parametrize("path", EXACT, ids=name_of)
def test_exact_modules_keep_to_the_seam(path):
    """GEN-2, GEN-3, SUM-1: division, sums and powers go through _exact."""
    known = KNOWN.get(name_of(path), set())
    breaks = seam_breaks(path.read_text(encoding="utf-8"))
    assert not [b for b in breaks if b.split(": ", 1)[1] not in known], (
        "Python numbers or integers? Then list it in KNOWN"
    )


def test_the_seam_test_sees_breaks():
    """Its own witness."""
    for line in (
        "y = x / s",
        "y = a @ b",
        "y = jnp.sum(x)",
        "y = jax.numpy.exp2(x)",
        "y = lax.rsqrt(x)",
        "y = x / 127.0",
    ):
        assert seam_breaks(line), line
    for line in ("1 / 3", "n // 2", "jnp.sum(x, dtype=jnp.int32)", "_exact.div(x, s)"):
        assert not seam_breaks(line), line


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_files_and_functions_are_short(path):
    """At most 300 lines a file and 40 a function, its docstring and signature left out."""
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 300
    for function in functions(tree_of(path)):
        body = function.body[1:] if ast.get_docstring(function) else function.body
        length = body[-1].end_lineno - body[0].lineno + 1 if body else 0
        assert length <= 40, f"{function.name} has {length} lines"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_public_names_have_docstrings(path):
    """100 %: modules, classes, functions, methods and properties without a leading underscore."""
    tree = tree_of(path)
    assert ast.get_docstring(tree) or not tree.body, "the module has no docstring"
    if any(part.startswith("_") and part != "__init__.py" for part in path.relative_to(ROOT).parts):
        return
    for node in public_nodes(tree):
        assert ast.get_docstring(node), f"{node.name} (line {node.lineno}) has no docstring"


def public_nodes(scope: ast.Module | ast.ClassDef) -> list:
    found = []
    for node in scope.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_") and not is_stub(node):
            if isinstance(node, ast.ClassDef):
                found += public_nodes(node)
            found.append(node)
    return found


def is_stub(node: ast.FunctionDef | ast.ClassDef) -> bool:
    """A member of a Protocol: its body is `...`."""
    return len(node.body) == 1 and ast.unparse(node.body[0]) == "..."


def imports(tree: ast.Module) -> set[str]:
    """Dotted names that a file imports, inside functions too; `from a import b` gives a.b."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "a relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("path", [p for p in FILES if "refquant" in p.parts], ids=name_of)
def test_refquant_imports_numpy_and_the_standard_library(path):
    """`import refquant` needs NumPy alone (rich is optional, in the command)."""
    allowed = {*sys.stdlib_module_names, "numpy", "refquant"} | ({"rich"} if "cli" in path.parts else set())
    allowed |= {"ml_dtypes"} if path.name == "arguments.py" else set()  # bfloat16 results, imported where asked for
    assert {name.split(".")[0] for name in imports(tree_of(path))} <= allowed


@pytest.mark.parametrize("path", EXACT, ids=name_of)
def test_no_array_crosses_the_border(path):
    """jaxquant takes from refquant data, ints, strings and shapes only."""
    taken = {name.split(".")[1] for name in imports(tree_of(path)) if name.startswith("refquant.")}
    assert taken <= ALLOWED, sorted(taken - ALLOWED)


@pytest.mark.parametrize("name", sorted(ALLOWED - {"files", "formats", "conventions"}))
def test_shared_modules_know_no_arrays(name):
    """What both packages share imports no NumPy."""
    assert not any(i.startswith("numpy") for i in imports(tree_of(ROOT / "refquant" / f"{name}.py")))


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_library_code_does_not_assert_print_or_warn(path):
    """Results and exceptions only; commands print."""
    if {"cli", "decide"} & set(path.parts) or path.name in ("doctor.py", "look.py", "diff.py", "__main__.py"):
        return
    for node in ast.walk(tree_of(path)):
        assert not isinstance(node, ast.Assert), f"line {node.lineno}: assert"
        if isinstance(node, ast.Call):
            assert ast.unparse(node.func) not in ("print", "warnings.warn"), f"line {node.lineno}"


#: Fragments put together here, so that this file does not contain them itself.
BANNED_WORDS = [
    "/" + "work/", "chat" + "gpt", "co" + "pilot", "clau" + "de", "anthro" + "pic", "as an " + "ai\\b",
    "help" + "er [a-z0-9]\\b session", "brief" + "\\.md", "opt/" + "pypi", "dev-" + "machine",
]  # fmt: skip


def texts() -> list[pathlib.Path]:
    kinds = {".py", ".md", ".toml", ".txt", ".json", ".html", ".css", ".yml"}
    folders = ("refquant", "jaxquant", "tests", "specs", "examples", "benchmarks")
    inside = [p for folder in folders for p in (ROOT / folder).rglob("*") if p.suffix in kinds]
    return sorted(inside + [p for p in ROOT.iterdir() if p.suffix in kinds or p.name == "Makefile"])


def test_no_banned_words():
    """The project names no workplace."""
    pattern = re.compile("|".join(BANNED_WORDS), re.I)
    for path in texts():
        hit = pattern.search(path.read_text(encoding="utf-8", errors="replace"))
        assert not hit, f"{name_of(path)}: {hit.group()!r}"
