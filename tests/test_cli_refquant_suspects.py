"""`refquant vectors check` names the mistake of a kernel: planted ones against the files of specs/vectors (CMD-6)."""

from dataclasses import replace

import pytest

from refquant.cli import vector_check, vector_files
from refquant.conventions import DEFAULT
from specs.vector_cases.affine import MISTAKES
from specs.vector_cases.arrays import array
from specs.vector_cases.call import call
from specs.vector_cases.options import of_json

pytest.importorskip("ml_dtypes", reason="some cases have bfloat16 inputs, which NumPy has no dtype for")

KERNELS = {"onnx": DEFAULT, "half-away": replace(DEFAULT, ties="away"), "reciprocal": replace(DEFAULT, op="inv")}
#: With the zero point added after rounding, both mean that it is added before: no case can tell them apart.
ALIKE = {"fma", "zero-point-before-rounding"}


def cases(convention):  # noqa: ANN001, ANN201
    """The cases of affine.quantize in a convention, with their options as objects."""
    files = vector_files.about(vector_files.read_all(vector_files.folder(None)), "affine.quantize")
    found = [(case, of_json(case["options"])) for file in files for case in file.cases]
    return [(c, o) for c, o in found if o.get("convention", DEFAULT) == convention and "unspecified" not in c["expect"]]


def suspects(convention, kernel) -> list[tuple[str, int, int]]:  # noqa: ANN001
    """Who is suspected when all cases of a convention are answered by another one."""
    judged, wrong = cases(convention), set()
    for case, options in judged:
        args = {
            name: array(one["dtype"], (int(w, 16) if isinstance(w, str) else w for w in one["bits"]), one["shape"])
            for name, one in case["args"].items()
        }
        (result,) = call("refquant", case["fn"], options | {"convention": kernel}, args).values()
        if vector_check.judge(case, {"codes": list(result.bits)}):
            wrong.add(case["id"])
    return vector_check.suspects((case for case, _ in judged), wrong)


@pytest.mark.parametrize("flag", MISTAKES)
@pytest.mark.parametrize("name", KERNELS)
def test_the_mistake_of_a_kernel_golden_leads_the_suspects(name, flag):
    """CMD-6: of the mistakes of a quantizer only the planted one has all of its cases wrong."""
    convention = KERNELS[name]
    mistaken = MISTAKES[flag](convention)
    if mistaken == convention:
        assert suspects(convention, convention) == []
        return
    rows = suspects(convention, mistaken)
    whole = {one for one, bad, every in rows if bad == every} & set(MISTAKES)
    named = ALIKE if flag in ALIKE else {flag}
    if name == "onnx" and flag in ("precision", "nan"):  # cases that only other mistakes of that name break
        assert whole == set() and flag in [row[0] for row in rows[:2]]
    else:
        assert whole == named and rows[0][0] in named
