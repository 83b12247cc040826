"""jaxquant is refquant's mirror: the same files, the same public names, the same signatures."""

import importlib
import inspect
import pathlib

import pytest

pytest.importorskip("jax")

ROOT = pathlib.Path(__file__).parent.parent
#: Files of refquant that hold data, or arithmetic that JAX has elsewhere; jaxquant takes the data as they are.
DATA = {
    "arguments", "affine_steps", "checks", "contractions", "conventions", "estimators", "floats", "formats", "fused",
    "granularity", "kinds", "layer_checks", "options", "schemes", "spec", "sum_checks", "windows", "files", "cli",
    "__main__", "ptq",
}  # fmt: skip
#: Public names that only one package has, and why.
ONLY = {
    ("refquant", "codec"): {
        "values_of": "array helper", "codes_of": "array helper", "value_table": "array helper",
        "integer_codes": "array helper", "codebook_codes": "array helper",
    },
    ("refquant", "blocks"): {name: "layout helper of NumPy arrays" for name in ("to_blocks", "from_blocks", "expand")},
    ("jaxquant", "affine"): {"judge": "the mask of a layer's vjp, kept for its backward pass"},
    ("jaxquant", "scales"): {"scale_of": "range and scale in one program"},
    ("jaxquant", "codec"): {"values_of": "inside a trace", "codes_of": "inside a trace"},
}  # fmt: skip


#: Parameters that only jaxquant has, and why.
EXTRA = {("affine", "fake_quantize"): {"mask": "chooses the gradient; NumPy has no autodiff, see fake_quantize_vjp"}}


def mirrored() -> list[str]:
    """Dotted names of refquant's array modules, folders included."""
    names = []
    for path in sorted((ROOT / "refquant").rglob("*.py")):
        parts = path.relative_to(ROOT / "refquant").with_suffix("").parts
        if parts[0] not in DATA and not parts[-1].startswith("_"):
            names.append(".".join(parts))
    return names


def public(package: str, name: str) -> dict[str, inspect.Signature]:
    """Public functions that the module itself defines and that cite a rule."""
    module = importlib.import_module(f"{package}.{name}")
    found = {}
    for key, value in vars(module).items():
        target = inspect.unwrap(value) if callable(value) else None
        own = getattr(target, "__module__", "") == module.__name__
        if own and inspect.isfunction(target) and not key.startswith("_") and "Spec:" in (target.__doc__ or ""):
            found[key] = inspect.signature(target)
    return found


def shape_of(signature: inspect.Signature) -> list[tuple]:
    """Names, kinds and defaults of the parameters, without annotations."""
    return [(p.name, p.kind, p.default) for p in signature.parameters.values()]


@pytest.mark.parametrize("name", mirrored())
def test_same_file(name):
    """Where refquant has an array module, jaxquant has it under the same name."""
    path = ROOT / "jaxquant" / pathlib.Path(*name.split("."))
    assert path.with_suffix(".py").exists() or (path / "__init__.py").exists(), f"jaxquant/{name} is missing"


@pytest.mark.parametrize("name", mirrored())
def test_same_names_and_signatures(name):
    """Public functions that cite rules agree in name, order, kind and default of each parameter."""
    ours, theirs = public("refquant", name), public("jaxquant", name)
    only_ref = set(ours) - set(theirs) - set(ONLY.get(("refquant", name), {}))
    only_jax = set(theirs) - set(ours) - set(ONLY.get(("jaxquant", name), {}))
    assert not only_ref, f"refquant.{name} alone has {sorted(only_ref)}"
    assert not only_jax, f"jaxquant.{name} alone has {sorted(only_jax)}"
    for key in set(ours) & set(theirs):
        extra = EXTRA.get((name, key), {})
        same = [p for p in shape_of(theirs[key]) if p[0] not in extra]
        assert shape_of(ours[key]) == same, f"{name}.{key}: {ours[key]} and {theirs[key]}"


def test_same_front_door():
    """`import refquant` and `import jaxquant` offer the same operations."""
    import jaxquant
    import refquant

    missing = set(refquant.__all__) - set(jaxquant.__all__)
    assert not missing
    assert set(jaxquant.__all__) - set(refquant.__all__) <= {"decide", "look"}
