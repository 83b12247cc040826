"""Rules, code and tests point at each other: no docstring without a rule, no rule without code and a test."""

import ast
import functools
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parent.parent
CHAPTERS = sorted((ROOT / "specs").glob("*.md"))
LABEL = re.compile(r"\b([A-Z]{2,4})-(\d+)\b")
RANGE = re.compile(r"\b([A-Z]{2,4})-(\d+)\.\.(?:\1-)?(\d+)\b")
#: Rules whose code or test is still to come, or that say something no line of code can cite.  One place.
NOT_YET: dict[str, str] = {
    "GEN-7": "the `Class:` line of each docstring says it; test_docstring_cites_a_rule looks",
}


@functools.cache
def rules() -> dict[str, str]:
    """Label of each rule -> its chapter."""
    found = {}
    for chapter in CHAPTERS:
        for label in re.findall(r"^- \*\*([A-Z]{2,4}-\d+)\*\*", chapter.read_text(encoding="utf-8"), re.M):
            assert label not in found, f"{label} stands in {found[label]} and {chapter.name}"
            found[label] = chapter.name
    return found


@functools.cache
def families() -> set[str]:
    return {label.split("-")[0] for label in rules()}


def cited(text: str) -> set[str]:
    """Labels in a text, ranges spelled out."""
    labels = {f"{a}-{n}" for a, n in LABEL.findall(text)}
    for family, first, last in RANGE.findall(text):
        labels |= {f"{family}-{n}" for n in range(int(first), int(last) + 1)}
    return {label for label in labels if label.split("-")[0] in families()}


def sources(*folders: str) -> list[pathlib.Path]:
    return [p for folder in folders for p in sorted((ROOT / folder).rglob("*.py"))]


@functools.cache
def citations(*folders: str) -> set[str]:
    return set().union(*(cited(p.read_text(encoding="utf-8")) for p in sources(*folders)))


@pytest.mark.parametrize("path", sources("refquant", "jaxquant"), ids=lambda p: str(p.relative_to(ROOT)))
def test_cited_rules_exist(path):
    """Each label in code is a rule of a chapter, and a named chapter exists."""
    text = path.read_text(encoding="utf-8")
    unknown = cited(text) - set(rules())
    assert not unknown, f"no such rule: {sorted(unknown)}"
    for chapter in re.findall(r"specs/([\w-]+\.md)", text):
        assert (ROOT / "specs" / chapter).exists(), f"specs/{chapter} does not exist"


def array_functions() -> list:
    """Public module-level functions of the mirrored array modules."""
    names = ("affine", "bits", "codec", "packing", "qtensor", "rounding", "scales", "sums", "thresholds", "requantize")
    found = []
    for package in ("refquant", "jaxquant"):
        for name in names:
            tree = ast.parse((ROOT / package / f"{name}.py").read_text(encoding="utf-8"))
            found += [pytest.param(f, id=f"{package}.{name}.{f.name}") for f in tree.body if is_public(f)]
    return found


def is_public(node: ast.AST) -> bool:
    return isinstance(node, ast.FunctionDef) and not node.name.startswith("_")


@pytest.mark.parametrize("function", array_functions())
def test_docstring_cites_a_rule(function):
    """Public functions of array modules name their rules (a `Spec:` line, or a label for helpers)."""
    text = ast.get_docstring(function) or ""
    assert cited(text), f"{function.name} cites no rule"
    if "Spec:" in text:
        assert re.search(r"Class: (exact|bounded)", text), f"{function.name} states no class"  # exact or bounded


@pytest.mark.parametrize("label", list(rules()))
def test_rule_is_coded_and_tested(label):
    """Each rule is cited by the code that implements it and by a test, or listed as not yet."""
    if label in NOT_YET:
        assert not (label in citations("refquant", "jaxquant") and label in citations("tests")), f"{label} is done"
        pytest.skip(NOT_YET[label])
    assert label in citations("refquant", "jaxquant"), f"no code cites {label} ({rules()[label]})"
    assert label in citations("tests"), f"no test cites {label} ({rules()[label]})"


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda p: p.name)
def test_chapters_are_short(chapter):
    """At most 200 lines a chapter."""
    assert len(chapter.read_text(encoding="utf-8").splitlines()) <= 200
