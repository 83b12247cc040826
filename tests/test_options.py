"""Options that are texts: every field that is annotated with Literal refuses what it does not name (GEN-5)."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import pkgutil
import typing

import numpy as np
import pytest

import refquant
from refquant.conventions import DEFAULT, PRESETS, RESCALES, Affine, Cast, Dequant, Lanes, Rescale, StepFunction
from refquant.estimators import Lsq, LsqPlus, Ste
from refquant.files.quantized import Plan
from refquant.formats import CodebookFormat, FloatFormat
from refquant.options import options
from refquant.spec import SCALE_BITS, ScaleRule

MADE = [Affine(), Cast(), Rescale(), Dequant(), ScaleRule(), Ste(), Lsq(), LsqPlus(),
        StepFunction((-(2**31),), (0,), "int32", "int8")]  # fmt: skip
FIELDS = [(made, field) for made in MADE for field in options(type(made))]
NOT_TRIED = {
    FloatFormat: "a row's refusal names the row (FMT-9)",
    CodebookFormat: "the same",
    Plan: "made by the library alone",
}
IDS = [f"{type(made).__name__}-{field}" for made, field in FIELDS]
#: Neither texts nor None; an array of one text equals that text, and no list can be looked up in a set.
OTHERS = (3, True, 1.5, b"div", ("even",), ["even"], {}, np.zeros(3), np.array("even"), np.array(["div"]), Affine)


def dataclasses_of(package) -> set[type]:  # noqa: ANN001
    """Every dataclass that a module of a package defines."""
    found = set()
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        if not module.name.endswith("__main__"):
            members = vars(importlib.import_module(module.name)).values()
            found |= {one for one in members if inspect.isclass(one) and dataclasses.is_dataclass(one)}
    return found


def test_every_class_with_options_is_tried():
    """A new one is made above; what it may be is read off its source, not asked of `options`."""
    found = {one for one in dataclasses_of(refquant) if "Literal" in str(typing.get_type_hints(one))}
    assert found == {type(made) for made in MADE} | set(NOT_TRIED)
    assert all(len(options(one)) == str(typing.get_type_hints(one)).count("Literal[") for one in found)


@pytest.mark.parametrize(("made", "field"), FIELDS, ids=IDS)
def test_a_wrong_option_property_is_refused(made, field):
    """GEN-5, CNV-1: the message has class, field, what was given, and every option."""
    allowed = options(type(made))[field]
    texts = [text + wrong for text in allowed if text for wrong in ("x", " ", "\n")] + [str.upper(allowed[0]), ""]
    for value in (*texts, *OTHERS, *([] if None in allowed else [None])):
        with pytest.raises(ValueError) as caught:
            dataclasses.replace(made, **{field: value})
        need = ", ".join(map(repr, allowed))
        assert str(caught.value).startswith(f"{type(made).__name__}: {field} is ")
        assert f", need {need} (" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(("made", "field"), FIELDS, ids=IDS)
def test_an_option_property_is_accepted(made, field):
    """A point that is refused has no meaning together with the others: it is not for its own option."""
    for value in options(type(made))[field]:
        try:
            point = dataclasses.replace(made, **{field: value})
        except ValueError as error:
            assert " with " in str(error)
        else:
            assert getattr(point, field) == value and hash(point) == hash(dataclasses.replace(point))


def test_options_golden():
    assert list(options(Affine)) == ["op", "prec", "zero", "ties", "overflow", "nan"]
    assert options(Affine)["ties"] == ("even", "away", "up", "down", "trunc")
    assert options(Cast)["ties"] == ("even", "away", "zero", "up", "down", None)
    assert options(Lanes) == {} and options(StepFunction) == {"domain": ("float32", "int32")}
    assert options(ScaleRule)["storage"] == tuple(SCALE_BITS)


LANES = PRESETS["litert_builtin"].affine
N = "need an int from 1 up (elements in one block, CNV-6)"
REFUSALS = [
    (lambda: Affine(op="divide"), ValueError,
     "Affine: op is 'divide', need 'div', 'inv', 'given' (CNV-1); nearest: div"),
    (lambda: Affine(prec="float32"), ValueError,
     "Affine: prec is 'float32', need 'f32', 'f64', 'f16' (CNV-1); nearest: f32"),
    (lambda: Affine(zero="before"), ValueError,
     "Affine: zero is 'before', need 'int', 'add', 'fma', 'bias' (CNV-1)"),
    (lambda: Affine(op="INV"), ValueError, "Affine: op is 'INV', need 'div', 'inv', 'given' (CNV-1); nearest: inv"),
    (lambda: Affine(nan=None), ValueError, "Affine: nan is None, need 'qmin', 'qmax', 'zero' (CNV-1)"),
    (lambda: Affine(np.zeros((2, 2))), ValueError,
     "Affine: op is of type numpy.ndarray, need 'div', 'inv', 'given' (CNV-1)"),
    (lambda: Cast(overflow="sat"), ValueError,
     "Cast: overflow is 'sat', need 'saturate', 'finite', 'special' (ENC-2..ENC-6); nearest: saturate"),
    (lambda: Cast(ties="evn"), ValueError,
     "Cast: ties is 'evn', need 'even', 'away', 'zero', 'up', 'down', None (ENC-2..ENC-6); nearest: even"),
    (lambda: Rescale("q32", "double", "up"), ValueError,
     "Rescale: multiplier is 'q32', need 'f32', 'f64', 'q31', 'q15', 'q8' (RSC-1); nearest: q31"),
    (lambda: Dequant(out="f16"), ValueError,
     "Dequant: out is 'f16', need 'float32', 'float16', 'bfloat16' (CNV-7); nearest: float16"),
    (lambda: ScaleRule("symmetric"), ValueError, "ScaleRule: zero is 'symmetric', need 'none', 'int', 'float' "
     "(SCL-1..SCL-8)"),
    (lambda: Lanes("8", DEFAULT, DEFAULT), TypeError, f"Lanes: n is '8', {N}"),
    (lambda: Lanes(True, DEFAULT, DEFAULT), TypeError, f"Lanes: n is True, {N}"),
    (lambda: Lanes(0, DEFAULT, DEFAULT), ValueError, f"Lanes: n is 0, {N}"),
    (lambda: Lanes(8, "div", DEFAULT), TypeError,
     "Lanes: body is 'div', need an Affine such as conventions.DEFAULT (CNV-6)"),
    (lambda: Lanes(8, DEFAULT, LANES), TypeError,
     "Lanes: tail is of type refquant.conventions.affine.Lanes, need an Affine such as conventions.DEFAULT (CNV-6)"),
    (lambda: Lanes(8, DEFAULT, RESCALES["xnnpack"].point), TypeError,
     "Lanes: tail is of type refquant.conventions.rescale.Rescale, need an Affine such as conventions.DEFAULT (CNV-6)"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "error", "text"), REFUSALS, ids=[text[:30] for _, _, text in REFUSALS])
def test_refusal_golden(make, error, text):
    """GEN-5: TypeError is about kinds, ValueError about options."""
    with pytest.raises(error) as caught:
        make()
    assert str(caught.value) == text and caught.type is error


def test_lanes_of_one_are_accepted():
    assert Lanes(1, DEFAULT, DEFAULT).body_size(7) == 7
