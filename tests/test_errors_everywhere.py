"""Every public function, one wrong argument at a time: both packages refuse the same, in the same words (GEN-5)."""

import importlib
import inspect

import numpy as np
import pytest
from refusal_calls import ARRAYS, CALLS, OTHERS, PLAIN, VALUES
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


def wrong(name: str):  # noqa: ANN201
    """(what, arguments, options) with one of them exchanged."""
    arguments, options = CALLS[name]
    parameters = list(inspect.signature(find("refquant", name)).parameters)
    for place, parameter in enumerate(parameters[: len(arguments)]):
        for kind, value in (VALUES if parameter in PLAIN else ARRAYS).items():
            yield f"{parameter}={kind}", [*arguments[:place], value, *arguments[place + 1 :]], options
    for option in options:
        for kind, value in (ARRAYS if option in ("input_scale", "input_zero_point") else VALUES).items():
            yield f"{option}={kind}", arguments, options | {option: value}


@pytest.mark.parametrize("name", CALLS)
def test_wrong_arguments_differential_same_refusal(name):
    """GEN-5: a text of the house, *function: argument is X, need Y*, never one of NumPy's or JAX's own."""
    assert [outcome(package, name, *CALLS[name]) for package in PACKAGES] == [("", "")] * 2
    for what, arguments, options in wrong(name):
        ours, theirs = (outcome(package, name, arguments, options) for package in PACKAGES)
        assert ours == theirs, what
        assert ours[0] in ("", "TypeError", "ValueError"), what
        assert not ours[0] or (" need " in ours[1] and "\n" not in ours[1]), f"{what}: {ours}"


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
