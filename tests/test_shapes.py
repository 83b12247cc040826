"""What layers accept and where they read, on shapes alone: windows, contractions, sums (LAY-5, LAY-8, LAY-10)."""

import itertools
import math

import numpy as np
import pytest

from refquant import checks
from refquant.contractions import Contraction, attend, contraction, dense
from refquant.windows import Window, window

ONE = {"strides": 1, "input_dilation": 1, "kernel_dilation": 1, "groups": 1}
IMAGE, KERNEL = (1, 5, 5, 3), (3, 3, 3, 8)


def conv(x: tuple[int, ...], weight: tuple[int, ...], **options: object) -> Window:
    return window("conv", x, weight, **({"padding": "VALID"} | ONE | options))


@pytest.mark.parametrize("padding", ["SAME", "SAME_LOWER"])
def test_window_exhaustive_same_padding_is_the_least_and_even(padding: str) -> None:
    """LAY-5: as many outputs as steps fit the size, no zero too many, an odd one after (before)."""
    for size, taps, step, spread in itertools.product(range(8), range(1, 5), range(1, 5), (1, 2)):
        found = conv((1, size, 1), (taps, 1, 1), padding=padding, strides=step, kernel_dilation=spread)
        ((low, high),), (out,) = found.padding, found.out
        odd = high - low if padding == "SAME" else low - high
        need = (math.ceil(size / step) - 1) * step + (taps - 1) * spread + 1
        assert min(low, high) >= 0 and odd in (0, 1)
        assert low + high == max(0, need - size)
        assert out == math.ceil(size / step)


NO_WINDOW = [
    ((1, 3), (3, 8), {}, r"need \(batch, \*space, in\)"),
    ((1, 5, 3), KERNEL, {}, r"need \(batch, \*space, in\)"),
    ((1, 5, 5, 5, 3), KERNEL, {}, r"need \(batch, \*space, in\)"),
    (IMAGE, (3, 0, 3, 8), {}, r"need \(batch, \*space, in\)"),
    ((1, 5, 5, 2), KERNEL, {}, r"x has 2 channels .*, need in = weight's 3 \* feature_group_count 1"),
    ((1, 5, 5, 4), KERNEL, {}, "x has 4 channels"),
    ((1, 5, 5, 9), KERNEL, {"groups": 3}, "and outputs divisible by it"),
    ((1, 5, 5, 0), KERNEL, {"groups": 0}, "feature_group_count is 0, need an integer from 1"),
    (IMAGE, KERNEL, {"strides": 0}, "strides is 0, need a number from 1 on, or 2 of them"),
    (IMAGE, KERNEL, {"strides": (1, 2, 3)}, r"strides is \(1, 2, 3\), need"),
    (IMAGE, KERNEL, {"kernel_dilation": (1,)}, r"kernel_dilation is \(1,\), need"),
    (IMAGE, KERNEL, {"input_dilation": (1, 1.0)}, "input_dilation is .*, need"),
    (IMAGE, KERNEL, {"padding": "SAME", "input_dilation": (1, 2)}, r"'SAME' with input_dilation \(1, 2\), need pairs"),
    (IMAGE, KERNEL, {"padding": "FULL"}, "padding is 'FULL', need 'SAME', 'SAME_LOWER', 'VALID' or numbers"),
    (IMAGE, KERNEL, {"padding": ((1, 2),)}, "need a number or 2 numbers or pairs"),
    (IMAGE, KERNEL, {"padding": (1, 2, 3)}, "need a number or 2 numbers or pairs"),
    (IMAGE, KERNEL, {"padding": ((1, 2, 3), 1)}, "need a number or 2 numbers or pairs"),
    (IMAGE, KERNEL, {"padding": ((1, 0.5), 1)}, "need a number or 2 numbers or pairs"),
]


@pytest.mark.parametrize(("x", "weight", "options", "text"), NO_WINDOW)
def test_window_golden_refusals(x: tuple, weight: tuple, options: dict, text: str) -> None:
    """LAY-5: each condition by itself."""
    with pytest.raises(ValueError, match=f"^conv: .*{text}"):
        conv(x, weight, **options)


def test_window_golden_valid_may_be_dilated() -> None:
    """LAY-5: what "SAME" may not."""
    assert conv(IMAGE, KERNEL, input_dilation=2).out == (7, 7)
    assert conv((1, 2, 5, 3), KERNEL).out == (0, 3)
    assert conv(IMAGE, KERNEL, padding=(1, (0, -1))).padding == ((1, 1), (0, -1))


def by_matrices(found: Contraction, x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """What the attributes of a Contraction say: one product of matrices for each index of the batch."""
    left, right = x.transpose(found.x), weight.transpose(found.weight)
    batch, rows = left.shape[: found.batch], left.shape[found.batch : found.batch + found.rows]
    columns = right.shape[found.batch + found.depth :]
    depth = found.products(weight.shape)
    left, right = left.reshape(*batch, math.prod(rows), depth), right.reshape(*batch, depth, math.prod(columns))
    return (left @ right).reshape((*batch, *rows, *columns)).transpose(found.out)


SUMS = [
    ("bd,df->bf", (2, 3), (3, 4)),
    ("bd,df->fb", (2, 3), (3, 4)),
    ("d,d->", (3,), (3,)),
    ("a,b->ba", (2,), (3,)),
    ("bqd,bde->bqe", (2, 5, 3), (2, 3, 4)),
    ("qbd,dbe->ebq", (5, 2, 3), (3, 2, 4)),
    ("abcd,adec->ceb", (2, 5, 3, 4), (2, 4, 6, 3)),
    ("...d,df->...f", (3,), (3, 4)),
    ("...d,df->...f", (2, 5, 7, 3), (3, 4)),
    ("...de,efd->f...", (2, 5, 3, 4), (4, 6, 3)),
    ("b...d, bdf -> fb...", (2, 5, 7, 3), (2, 3, 4)),
]


@pytest.mark.parametrize(("subscripts", "x", "weight"), SUMS)
def test_contraction_external_einsum(subscripts: str, x: tuple, weight: tuple) -> None:
    """LAY-10, against numpy.einsum on integers."""
    found = contraction("einsum", subscripts, x, weight)
    a, b = (np.random.default_rng(n).integers(-9, 9, shape) for n, shape in enumerate((x, weight)))
    want = np.einsum(subscripts, a, b)
    assert found.out_shape(x, weight) == want.shape
    assert (by_matrices(found, a, b) == want).all()
    assert [x[n] for n in found.x_summed] == [weight[n] for n in found.weight_summed]


FORM, LETTERS, ALONE = r"need 'x,weight->result' \(two", "need each letter at most once", "need every letter of one"
NO_SUM = [
    ("ab,bc", (2, 3), (3, 4), FORM),
    ("ab->ab", (2, 3), (3, 4), FORM),
    ("ab,bc,cd->ad", (2, 3), (3, 4), FORM),
    ("aab,bc->ac", (2, 2, 3), (3, 4), LETTERS),
    ("ab,bc->aac", (2, 3), (3, 4), LETTERS),
    ("ab,bc->...ac", (2, 3), (3, 4), LETTERS),
    ("ab,...bc->ac", (2, 3), (3, 4), LETTERS),
    ("a1,1c->ac", (2, 3), (3, 4), LETTERS),
    ("...abc,cd->...abd", (3,), (3, 4), r"x has shape \(3,\), need rank 3 for"),
    ("ab,bc->ac", (2, 3, 1), (3, 4), r"x has shape \(2, 3, 1\), need rank 2 for 'ab,bc->ac'"),
    ("ab,bc->ac", (2, 3), (3,), r"weight has shape \(3,\), need rank 2 for 'ab,bc->ac'"),
    ("ab,bc->c", (2, 3), (3, 4), ALONE),
    ("ab,bc->acd", (2, 3), (3, 4), ALONE),
    ("ab,bc->ac", (2, 3), (5, 4), r"weight has shape \(5, 4\), need 3 for 'b' of 'ab,bc->ac' \(x has shape \(2, 3\)\)"),
]


@pytest.mark.parametrize(("subscripts", "x", "weight", "text"), NO_SUM)
def test_contraction_golden_refusals(subscripts: str, x: tuple, weight: tuple, text: str) -> None:
    """LAY-10: each condition by itself."""
    with pytest.raises(ValueError, match=f"^einsum: .*{text}"):
        contraction("einsum", subscripts, x, weight)


@pytest.mark.parametrize("x", [(3,), (2, 3), (0, 3), (2, 5, 3)])
def test_dense_and_attend_property_are_contractions(x: tuple) -> None:
    """LAY-10: "...k,kn->...n" and "...f,vf->...v"."""
    assert dense("dense", x, (3, 4)) == contraction("dense", "...k,kn->...n", x, (3, 4))
    assert attend("attend", x, (4, 3)) == contraction("attend", "...f,vf->...v", x, (4, 3))


@pytest.mark.parametrize(("x", "weight"), [((), (3, 3)), ((2, 3), (4, 4)), ((3,), (3,)), ((3,), (3, 3, 3))])
def test_dense_and_attend_golden_refusals(x: tuple, weight: tuple) -> None:
    with pytest.raises(ValueError, match=r"^dense: x has shape .*, need \(\.\.\., K\) and \(K, N\)$"):
        dense("dense", x, weight)
    with pytest.raises(ValueError, match=r"^attend: x has shape .*, need \(\.\.\., F\) and \(V, F\)$"):
        attend("attend", x, weight)


def test_accumulator_golden_the_largest_sum_that_fits() -> None:
    """SUM-2, LAY-8: 2**31 - 1 and one more."""
    checks.accumulator("dense", 1, 2**31 - 1, 1)
    with pytest.raises(ValueError, match="can reach") as caught:
        checks.accumulator("dense", 2, 2**15, 2**15)
    assert str(caught.value) == (
        "dense: 2 products of magnitudes up to 32768 and 32768 can reach 2147483648, need at most 2147483647 "
        "(the sum is kept in int32)"
    )
