"""Every public function, one wrong argument at a time: both packages refuse the same, in the same words (GEN-5)."""

import importlib
import inspect
from itertools import combinations, product

import numpy as np
import pytest
from refusal_calls import ARRAYS, CALLS, OTHERS, PAIRED, PLAIN, VALUES
from test_mirror import mirrored, public

pytest.importorskip("jax")
PACKAGES = ("refquant", "jaxquant")


def find(package: str, name: str):  # noqa: ANN201
    module, function = name.split()[0].rsplit(".", 1)
    return getattr(importlib.import_module(f"{package}.{module}"), function)


def outcome(package: str, name: str, arguments: list, options: dict) -> tuple[str, str]:
    """("", "") if the call is accepted, else type and text."""
    made = [
        value(lambda module: importlib.import_module(f"{package}.{module}")) if inspect.isfunction(value) else value
        for value in arguments
    ]
    try:
        find(package, name)(*made, **options)
    except Exception as error:  # noqa: BLE001
        return type(error).__name__, str(error)
    return "", ""


def places(name: str):  # noqa: ANN201
    """Each argument of a call by name, and what nobody should pass for it."""
    arguments, options = CALLS[name]
    parameters = list(inspect.signature(find("refquant", name)).parameters)[: len(arguments)]
    for parameter in parameters:
        yield parameter, VALUES if parameter in PLAIN else ARRAYS
    for option in options:
        yield option, ARRAYS if option in ("input_scale", "input_zero_point") else VALUES


def refusals(name: str, wrong: dict) -> list[tuple[str, str]]:
    """What each package says to a call with some arguments exchanged."""
    arguments, options = CALLS[name]
    parameters = inspect.signature(find("refquant", name)).parameters
    passed = [wrong.get(parameter, value) for parameter, value in zip(parameters, arguments, strict=False)]
    return [outcome(package, name, passed, {k: wrong.get(k, v) for k, v in options.items()}) for package in PACKAGES]


def check_refusals(name: str, wrong: dict, what: str) -> None:
    """The same text of the house, *function: argument is X, need Y*, never one of NumPy's or JAX's own."""
    ours, theirs = refusals(name, wrong)
    assert ours == theirs, what
    assert ours[0] in ("", "TypeError", "ValueError"), what
    assert not ours[0] or (" need " in ours[1] and "\n" not in ours[1]), f"{what}: {ours}"


@pytest.mark.parametrize("name", CALLS)
def test_wrong_arguments_differential_same_refusal(name):
    """GEN-5."""
    assert refusals(name, {}) == [("", "")] * 2
    for parameter, values in places(name):
        for kind, value in values.items():
            check_refusals(name, {parameter: value}, f"{parameter}={kind}")


@pytest.mark.parametrize("name", CALLS)
def test_two_wrong_arguments_differential_same_first(name):
    """GEN-5: of two wrong arguments both packages name the same."""
    for (one, values), (other, others) in combinations(places(name), 2):
        for a, b in product(PAIRED, PAIRED):
            if a in values and b in others:
                check_refusals(name, {one: values[a], other: others[b]}, f"{one}={a}, {other}={b}")


def test_every_public_function_is_swept():
    """A new function gets a call in tests/refusal_calls.py, or a reason there."""
    named = {name.split()[0] for name in CALLS} | set(OTHERS)
    both = {
        f"{module}.{key}"
        for module in mirrored()
        for key in public("refquant", module)
        if key in public("jaxquant", module)
    }
    assert both == named


@pytest.mark.parametrize("value", [2**70, -(2**40), float("inf")])
def test_numbers_beyond_int32_differential(value):
    """GEN-5: Python's own numbers have no dtype that could be told."""
    from refquant.conventions import DEFAULT
    from refquant.formats import ALL

    texts = {outcome(p, "thresholds.thresholds", [DEFAULT, ALL["int2"], 1.0, value], {}) for p in PACKAGES}
    assert len(texts) == 1 and "need" in texts.pop()[1]


def test_a_tensor_of_the_other_package_is_refused_golden():
    """GEN-5: no array crosses the border; what is told apart has its module before its name."""
    from refquant import qtensor
    from refquant.formats import ALL
    from refquant.spec import QuantSpec

    theirs = qtensor.quantize_tensor(np.ones((4, 3), np.float32), QuantSpec(ALL["int4"]))
    told = "dense: weight is of type refquant.qtensor.QTensor, need QTensor of qtensor or Trained of qat.trained"
    assert outcome("jaxquant", "qat.dot.dense", [np.ones((2, 4), np.float32), theirs], {}) == ("TypeError", told)


def test_arguments_inside_arguments_differential():
    """GEN-5: masked arrays inside what a layer is given."""
    from refquant.estimators import Lsq
    from refquant.spec import QuantSpec

    masked, x = np.ma.array(np.float32(1)), np.ones((2, 3), np.float32)
    found = set()
    for package in PACKAGES:
        qat = importlib.import_module(f"{package}.qat")
        spec = QuantSpec(importlib.import_module("refquant.formats").ALL["int8"])
        with pytest.raises(TypeError) as caught:
            qat.dense(x, qat.Trained(x.T, (masked,), spec=spec, estimator=Lsq()))
        found.add(str(caught.value))
        with pytest.raises(TypeError) as caught:
            qat.dense(x, qat.Trained(np.ma.array(x.T), spec=spec))
        found.add(str(caught.value))
    assert len(found) == 1
