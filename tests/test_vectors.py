"""The golden vectors: every file on every backend."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
from collections.abc import Iterator

import numpy as np
import pytest
from vectors_support import CASES, TABLES, alternatives, cases

from refquant.conventions import Affine, Rescale
from refquant.conventions.steps import StepFunction, key_bits
from refquant.formats import ALL
from specs import vectors
from specs.vector_cases import arrays, options
from specs.vector_cases.call import call

HAVE_BFLOAT16 = importlib.util.find_spec("ml_dtypes") is not None
#: Elementwise functions: on JAX all cases, in one size and op by op, so that XLA compiles an operation once.
ELEMENTWISE = (
    "rounding.",
    "bits.",
    "codec.",
    "affine.",
    "scales.choose_scale",
    "requantize.",
    "qat.integer_bias",
    "calibration.entropy.lg",
)
SIZE = 512
#: Of the other functions JAX compiles each case anew: this many a file, or all with VECTORS=all (some minutes).
SOME = 10**6 if os.environ.get("VECTORS") == "all" else 2
KEYS = 544  # two for each start of an int8 table, and some


def elementwise(case: dict) -> bool:
    """One size for all arrays, so more elements may be put behind them."""
    sizes = {tuple(value["shape"]) for value in case["args"].values()} - {()}
    return (
        case["fn"].startswith(ELEMENTWISE)
        and "granularity" not in case["options"]
        and len(sizes) == 1
        and len(min(sizes)) == 1
    )


def run(case: dict, package: str) -> dict[str, arrays.Array]:
    args = {name: arrays.of_json(value) for name, value in case["args"].items()}
    if package != "jaxquant" or not elementwise(case):
        return call(package, case["fn"], options.of_json(case["options"]), args)
    size = max(len(value.bits) for value in args.values())
    longer = {name: extended(value) for name, value in args.items()}
    with op_by_op(package):
        got = call(package, case["fn"], options.of_json(case["options"]), longer)
    return {name: arrays.array(value.dtype, value.bits[:size]) for name, value in got.items()}


@contextlib.contextmanager
def op_by_op(package: str) -> Iterator[None]:
    """JAX without jit; scalars stay NumPy's there, and would warn."""
    with contextlib.ExitStack() as stack:
        if package == "jaxquant":
            stack.enter_context(importlib.import_module("jax").disable_jit())
            stack.enter_context(np.errstate(all="ignore"))
        yield


def extended(value: arrays.Array) -> arrays.Array:
    fill = -len(value.bits) % SIZE
    return value if value.shape == () else arrays.array(value.dtype, value.bits + value.bits[:1] * fill)


def wrong(case: dict, package: str) -> str:
    """Where a package departs from a case; "" where it does not."""
    got = run(case, package)
    if "unspecified" in case["expect"] or any(_equal(got, one) for one in alternatives(case["expect"])):
        return ""
    return f"{case['id']} ({case['rule']}; {', '.join(case['flags'])}): {_report(got, alternatives(case['expect'])[0])}"


def _equal(got: dict, want: dict) -> bool:
    return set(got) == set(want) and all(arrays.same(got[name], want[name]) for name in want)


def _report(got: dict, want: dict) -> str:
    for name, one in want.items():
        if name not in got or not arrays.same(got[name], one):
            have = got[name].json() if name in got else {"dtype": None, "shape": None, "bits": []}
            if (have["dtype"], have["shape"]) != (one["dtype"], one["shape"]):
                return f"{name} is {have['dtype']} {have['shape']}, want {one['dtype']} {one['shape']}"
            at = [i for i, pair in enumerate(zip(have["bits"], one["bits"], strict=True)) if pair[0] != pair[1]]
            first = f"[{at[0]}] is {have['bits'][at[0]]}, want {one['bits'][at[0]]}"
            return f"{name}: {len(at)} of {len(one['bits'])} differ, {first}"
    return f"results are {sorted(got)}, want {sorted(want)}"


def runnable(case: dict) -> bool:
    return HAVE_BFLOAT16 or "bfloat16" not in json.dumps(case)


def chosen(path: str, package: str) -> list[dict]:
    """All cases for refquant; for JAX the elementwise ones and some others, from the whole file."""
    found = [case for case in cases(path) if runnable(case)]
    if package == "refquant":
        return found
    others = [case for case in found if not elementwise(case)]
    return [case for case in found if elementwise(case)] + others[:: max(1, -(-len(others) // SOME))]


@pytest.mark.parametrize("path", CASES)
def test_golden_cases(backend: object, path: str) -> None:
    found = [wrong(case, backend.name) for case in chosen(path, backend.name)]
    bad = [text for text in found if text]
    assert not bad, f"{len(bad)} of {len(found)} cases of {path}:\n" + "\n".join(bad[:5])


def step_function(table: dict) -> StepFunction:
    return StepFunction(tuple(table["starts"]), tuple(table["codes"]), table["domain"], ALL[table["fmt"]].storage)


@pytest.mark.parametrize("path", TABLES)
def test_golden_tables(backend: object, path: str) -> None:
    """The codes at every start and just before it; between two of them nothing can change (CNV-3)."""
    for table in json.loads((vectors.AT / path).read_text("utf-8"))["tables"]:
        steps, fmt = step_function(table), ALL[table["fmt"]]
        keys = [key for start in steps.starts for key in (start - 1, start) if key >= -(2**31)]
        keys += keys[-1:] * (-len(keys) % KEYS)
        want = np.array([steps.code_at(key) for key in keys], fmt.storage)
        with op_by_op(backend.name):
            if table["domain"] == "int32":
                got = rescaled(backend, table, np.array(keys, np.int32), fmt)
            else:
                x = np.array([key_bits(key) for key in keys], np.uint32).view(np.float32)
                got = quantized(backend, table, x, fmt)
        assert np.array_equal(got, want), f"{table['id']}: {(np.asarray(got) != want).sum()} of {len(keys)} differ"


def number(scale: dict) -> np.ndarray:
    ((dtype, bits),) = scale.items()
    return arrays.scalar(dtype, int(bits, 16)).numpy()


def quantized(backend: object, table: dict, x: np.ndarray, fmt: object) -> np.ndarray:
    zero = table["zero_point"]
    zero, point = np.int32(zero) if isinstance(zero, int) else number(zero), Affine(*table["point"].split())
    if backend.name == "jaxquant" and point.prec == "f64":
        return backend.thresholds.apply(step_function(table), x)
    return backend.affine.quantize(x, number(table["scale"]), zero, fmt=fmt, convention=point)


def rescaled(backend: object, table: dict, acc: np.ndarray, fmt: object) -> np.ndarray:
    zero, rescale = np.int32(table["zero_point"]), Rescale(*table["point"].split())
    return backend.requantize.requantize(acc, number(table["scale"]), zero, fmt=fmt, rescale=rescale)
