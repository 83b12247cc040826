"""Arguments of layers that a compiled function would convert silently: both packages refuse them in the same words."""

from collections.abc import Callable

import numpy as np
import pytest
from bits import assert_same

import refquant as rq
from refquant import qat as ref_qat
from refquant import sums as ref_sums
from refquant.estimators import Lsq
from refquant.formats import ALL
from refquant.granularity import PerAxis
from refquant.scales import choose_scale
from refquant.spec import QuantSpec

pytest.importorskip("jax")

import jaxquant as jq  # noqa: E402
from jaxquant import qat as jax_qat  # noqa: E402
from jaxquant import sums as jax_sums  # noqa: E402

INT8 = QuantSpec(ALL["int8"])
STATIC = {"inputs": INT8, "input_scale": np.float32(0.1)}
X, W = np.float32([[1.5, -2.0]]), np.float32([[1, 2], [3, -4]])
IMAGE, KERNEL = np.ones((1, 3, 3, 2), np.float32), np.ones((2, 2, 2, 2), np.float32)
ONE, TWO = np.float32([1]), np.float32([[2]])
PACKAGES = ((rq, ref_qat, ref_sums), (jq, jax_qat, jax_sums))
BIASES = [
    np.int64([2**32 + 5, -7]), np.float64([1e300, 0.1]), [0.5, 0.25], [1, 2], np.array([1, 2], ">f4"),
    np.array(["a", "b"]), np.array([1, None]), 0.5,
]  # fmt: skip
LEARNED = [np.float64(0.1), np.array(0.1), np.array(0.1, ">f4"), np.int32(1), [0.1], np.float32([0.1, 0.2])]


def refusal(call: Callable[[], object]) -> tuple[type, str]:
    with pytest.raises((TypeError, ValueError)) as caught:
        call()
    return caught.type, str(caught.value)


def both(call: Callable) -> None:
    ours, theirs = (refusal(lambda p=p: call(*p)) for p in PACKAGES)
    assert theirs == ours


@pytest.mark.parametrize("bias", BIASES, ids=repr)
@pytest.mark.parametrize("kind", ["dense", "einsum", "attend", "conv"])
def test_bias_differential_refused(kind: str, bias: object) -> None:
    """LAY-9, GEN-1: no bias is narrowed on its way into a compiled layer."""

    def call(package, qat, _):
        w = package.quantize_tensor(W, QuantSpec(ALL["int8"], PerAxis(0 if kind == "attend" else 1)))
        if kind == "conv":
            return qat.conv(IMAGE, package.quantize_tensor(KERNEL, QuantSpec(ALL["int8"])), bias, **STATIC)
        return (
            qat.einsum("ab,bc->ac", X, w, bias, **STATIC)
            if kind == "einsum"
            else getattr(qat, kind)(X, w, bias, **STATIC)
        )

    both(call)


@pytest.mark.parametrize("scale", LEARNED, ids=repr)
@pytest.mark.parametrize("kind", ["dense", "embed"])
def test_learned_differential_refused(kind: str, scale: object) -> None:
    """EST-1: what is learned is binary32, also where a call with the right dtype has been compiled before."""

    def call(qat, scale: object):
        weight = qat.Trained(W, (scale,), spec=INT8, estimator=Lsq())
        return qat.dense(X, weight, **STATIC) if kind == "dense" else qat.embed(np.int32([1, 0]), weight)

    assert_same(call(jax_qat, np.float32(0.1)), call(ref_qat, np.float32(0.1)))
    assert_same(call(jax_qat, 0.1), call(ref_qat, 0.1))
    both(lambda _, qat, __: call(qat, scale))


@pytest.mark.parametrize("storage", ["float16", "bfloat16"])
def test_learned_differential_refuses_another_storage(storage: str) -> None:
    """EST-1: what is learned is used as it is; a spec that says otherwise would be a file that cannot be written."""
    rounded = QuantSpec(ALL["int8"], scale=rq.ScaleRule(storage=storage))
    tenth = np.float32(0.1)

    def of_weight(qat):
        return qat.dense(X, qat.Trained(W, (tenth,), spec=rounded, estimator=Lsq()), **STATIC)

    def of_inputs(qat):
        weight = qat.Trained(W, spec=INT8)
        return qat.dense(X, weight, inputs=rounded, input_scale=tenth, input_estimator=Lsq())

    for call in (of_weight, of_inputs):
        _, text = refusal(lambda call=call: call(ref_qat))
        assert f"has scales in {storage}, need float32 (a learned scale is used as it is learned" in text
        both(lambda _, qat, __, call=call: call(qat))


@pytest.mark.parametrize("missing", [0, 2, 3])
def test_fold_differential_refuses_nothing(missing: int) -> None:
    """LAY-14: kernel, mean and variance are needed."""
    given: list = [TWO, None, ONE, ONE]
    given[missing] = None
    both(lambda _, qat, __: qat.fold(*given, epsilon=0.0))
    both(lambda _, qat, __: qat.fold(TWO, None, ONE, ONE, epsilon=np.float32([1, 2, 3])))


def test_tree_sum_differential_refuses_an_axis_that_is_no_integer() -> None:
    """SUM-1."""
    both(lambda _, __, sums: sums.tree_sum(X, np.float64(0)))
    both(lambda _, __, sums: sums.tree_sum(X, (0, "1")))


@pytest.mark.parametrize("pattern", [0x7F800001, 0xFF800001, 0x7FA00000, 0xFFBFFFFF, 0x7FC00000])
@pytest.mark.parametrize("count", [0, 1, 3, 8, 17])
def test_choose_scale_differential_signalling_nan(pattern: int, count: int) -> None:
    """SCL-1: any NaN counts as 0, at any place of any length."""
    from jaxquant import scales as jax_scales

    nans = (
        np.full(count, pattern, np.uint32).view(np.float32) if count else np.array(pattern, np.uint32).view(np.float32)
    )
    options = {"fmt": ALL["int8"], "rule": rq.ScaleRule()}
    for low, high in ((nans, np.ones_like(nans)), (-np.ones_like(nans), nans)):
        want = choose_scale(
            np.zeros_like(nans) if low is nans else low, np.zeros_like(nans) if high is nans else high, **options
        )
        assert_same(choose_scale(low, high, **options)[0], want[0])
        assert_same(jax_scales.choose_scale(low, high, **options)[0], want[0])
