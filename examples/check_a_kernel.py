"""Which convention does my kernel follow?  Put a call of yours (through ctypes, say) into `kernel` and run this file.

    python examples/check_a_kernel.py

A convention is a table of at most 2^bits thresholds.  So a few thousand *computed* inputs, the thresholds of all
candidates (`_candidates.py`) and their neighbours, decide what random inputs hardly see, and distances are exact counts
out of 2^32.

`report(kernel, ALL["int8"])` is about a kernel that quantizes, kernel(x, scale, zero_point) with float32 x;
`report(kernel, ALL["int8"], REQUANTIZE)` about one that brings int32 accumulators to codes, kernel(acc, multiplier,
zero_point) with a Python float as multiplier.

The report has a count and one input.  All of them, ascending, come from the tables of one scale and zero point:

>>> from refquant.conventions import PRESETS
>>> from refquant.thresholds import thresholds
>>> ours = tabulate(lambda x: kernel(x, np.float32(0.1), 3), storage="uint8")
>>> theirs = thresholds(PRESETS["onnx"].affine, ALL["uint8"], 0.1, 3)
>>> keys = itertools.chain(*(range(start, stop) for start, stop in differences(ours, theirs)))
>>> x = np.uint32([key_bits(key) for key in itertools.islice(keys, 3)]).view(np.float32)
>>> x.tolist(), apply(ours, x).tolist(), apply(theirs, x).tolist()
([1.5499999523162842, 1.9499999284744263, 2.3499999046325684], [19, 23, 27], [18, 22, 26])

Of accumulators, with domain="int32", the keys are the inputs.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from _candidates import Points, affine_points, rescale_points, tables

from refquant.conventions.steps import INF_KEY, Domain, StepFunction, differences, key_bits
from refquant.formats import ALL, IntFormat
from refquant.thresholds import apply, probes, tabulate

Kernel = Callable[[np.ndarray, Any, int], np.ndarray]
Case = tuple[float, int]  # a scale or multiplier, a zero point
BLOCK = 64  # no vector has more elements; the last ones of a long array may be computed in another way
REGIONS = ("in range", "with |x / scale| of 2^31 and more", "infinite", "NaN")  # of inputs
LENGTHS = (1, 7, 8, 9, 17, 33)  # that tell blocks of 2 to 33 elements apart
SHORT = 4096  # inputs that are tried at every place of short arrays


def kernel(x: np.ndarray, scale: np.float32, zero_point: int) -> np.ndarray:
    """The code under test: it takes the reciprocal of the scale once, as many runtimes do."""
    scaled = np.rint(x * (np.float32(1) / scale)) + zero_point
    return np.clip(np.where(np.isnan(scaled), 0, scaled), 0, 255).astype(np.uint8)


def half_up(x: np.ndarray, scale: np.float32, zero_point: int) -> np.ndarray:
    """A kernel that follows nobody: it rounds by adding 0.5 and taking the floor."""
    scaled = np.floor(x / scale + np.float32(0.5)) + zero_point
    return np.clip(np.where(np.isnan(scaled), 0, scaled), 0, 255).astype(np.uint8)


def half_away(x: np.ndarray, scale: np.float32, zero_point: int) -> np.ndarray:
    """The commonest slip: C's roundf after a true division."""
    ratio = x / scale
    scaled = np.trunc(ratio + np.copysign(np.float32(0.49999997), ratio)) + zero_point
    return np.clip(np.where(np.isnan(scaled), 0, scaled), 0, 255).astype(np.uint8)


def vectorized(x: np.ndarray, scale: np.float32, zero_point: int) -> np.ndarray:
    """Eight elements at a time in one way, what is left over in another, as compilers and hands write it."""
    whole = x.size - x.size % 8
    return np.concatenate([kernel(x[:whole], scale, zero_point), half_away(x[whole:], scale, zero_point)])


def requantize(acc: np.ndarray, multiplier: float, zero_point: int) -> np.ndarray:
    """The same question of int32 accumulators: a product in binary32, rounded half to even."""
    return np.clip(np.rint(acc.astype(np.float32) * np.float32(multiplier)) + zero_point, -128, 127).astype(np.int8)


def shifted(acc: np.ndarray, multiplier: float, zero_point: int) -> np.ndarray:
    """The commonest slip there: a shift to the right without adding half floors."""
    whole = acc.astype(np.int64) * round(multiplier * 2**31) >> 31
    return np.clip(whole + zero_point, -128, 127).astype(np.int8)


@dataclass(frozen=True)
class Task:
    """What a kernel does: its candidates, inputs and the scales it is asked with."""

    points: Callable[[], Points]
    domain: Domain
    scales: tuple[float, float, float]
    scale: Callable[[float], Any]
    far: np.ndarray  # in steps of the scale

    def cases(self, fmt: IntFormat) -> list[Case]:
        """Scales with zero points that the format has: a small one, one near the middle, one near the end."""
        zero_points = min(7, fmt.qmax), min((fmt.qmin + fmt.qmax) // 2 + 3, fmt.qmax), fmt.qmin + 1
        return list(zip(self.scales, zero_points, strict=True))

    def call(self, kernel: Kernel, x: np.ndarray, case: Case) -> np.ndarray:
        """The kernel on a copy, which it may write to."""
        return np.asarray(kernel(np.array(x), self.scale(case[0]), case[1]))

    def inside(self, kernel: Kernel, x: np.ndarray, case: Case) -> np.ndarray:
        """The codes of x where x lies in the whole blocks of a longer array."""
        rim = x[:1].repeat(BLOCK)
        return self.call(kernel, np.concatenate([rim, x, rim]), case)[BLOCK : BLOCK + x.size]

    def inputs(self, tables: list[StepFunction], case: Case) -> np.ndarray:
        """What decides between the tables, and numbers far outside the range."""
        far = self.far * np.float32(case[0])
        return np.concatenate([probes(*tables), far.astype(self.domain), -far.astype(self.domain)])


FAR = np.float32([0, 1e3, 1e6, 1e30, np.inf, np.nan])
QUANTIZE = Task(affine_points, "float32", (0.0123, 0.1, 0.75), np.float32, FAR)
# 0.75 has ties; 1.7e-7 tells how many bits a multiplier keeps.  Fixed point asks for multipliers below 1.
REQUANTIZE = Task(rescale_points, "int32", (0.0123, 0.75, 1.7e-7), float, FAR[:1])


@dataclass(frozen=True)
class Reading:
    """How a kernel may take what it is given: as asked, or with a narrower format, or without the zero point."""

    fmt: IntFormat
    ignored: bool = False

    def tables(self, task: Task, case: Case) -> dict[str, StepFunction]:
        """The table of each candidate."""
        return tables(task.points, self.fmt, case[0], 0 if self.ignored else case[1])

    def told(self, fmt: IntFormat) -> str:
        """The condition, in the middle of a sentence about a kernel of format fmt."""
        narrow = [f"its format is {self.fmt.name}"] if self.fmt != fmt else []
        words = " and ".join(narrow + ["it ignores the zero point"] * self.ignored)
        return f", if {words}," if words else ""


def readings(fmt: IntFormat) -> list[Reading]:
    """The likeliest first."""
    narrow = ALL.get(f"{fmt.name}_narrow")
    formats = [fmt, narrow] if isinstance(narrow, IntFormat) else [fmt]
    return [Reading(one, ignored) for ignored in (False, True) for one in formats]


def followed(codes_of: Callable[[np.ndarray, Case], np.ndarray], reading: Reading, task: Task, cases: list[Case]):
    """The candidates whose codes a kernel gives on all probes of all cases, and far outside the range."""
    names = list(task.points())
    for case in cases:
        tables = reading.tables(task, case)
        x = task.inputs(list(tables.values()), case)
        codes = codes_of(x, case)
        names = [name for name in names if np.array_equal(apply(tables[name], x), codes)]
    return names


def described(names: list[str], fmt: IntFormat) -> str:
    """Presets and other points in words; those that fit one kernel cannot be told apart in its format."""
    presets, points = [n for n in names if n[0] != "'"], [n for n in names if n[0] == "'"]
    nobodys = f"the point{'s' * (len(points) > 1)} {' and '.join(points)}"
    if presets:
        return ", ".join(presets) + (f" (to {fmt.name} the same as {nobodys})" if points else "")
    return f"no preset, but {nobodys}" + (f" (the same to {fmt.name})" if len(points) > 1 else "")


def nearest(kernel: Kernel, fmt: IntFormat, task: Task) -> str:
    """The convention that differs at the fewest inputs in range, then at the fewest of all, over all cases."""
    cases, own = task.cases(fmt), []
    for case in cases:
        try:
            own.append(tabulate(lambda x, c=case: task.inside(kernel, x, c), domain=task.domain, storage=fmt.storage))
        except ValueError as error:  # no table: too many steps
            jump = str(error).partition("steps: ")[2].partition(";")[0]
            return f"does not saturate, or jumps about: {jump} (scale {case[0]}, zero point {case[1]})"
    apart = {
        (reading, name): [_apart(t, reading.tables(task, c)[name], task, c) for t, c in zip(own, cases, strict=True)]
        for reading in readings(fmt)
        for name in task.points()
    }
    reading, name = min(apart, key=lambda one: (sum(n[0] for n in apart[one]), sum(map(sum, apart[one]))))
    counts, told = apart[reading, name], name if name[0] != "'" else f"the point {name}"
    if not any(map(any, counts)):
        return f"nearest{reading.told(fmt)} is {told}, but some codes depend on what else is in the array"
    opening = _opening({n: apart[reading, n] for n in task.points()}, name, told, reading.told(fmt))
    k = max(range(len(cases)), key=lambda k: (counts[k][0] > 0, any(counts[k]), -k))
    return f"{opening}: {_difference(own[k], reading.tables(task, cases[k])[name], name, counts[k], task, cases[k])}"


def _opening(apart: dict[str, list[list[int]]], name: str, told: str, condition: str) -> str:
    """Whether the nearest candidate is followed but for NaN, or in range, or not even there."""
    for regions, where in ((3, " but for NaN"), (1, " wherever in range")):
        same = [n for n, counts in apart.items() if not any(any(c[:regions]) for c in counts)]
        if name in same:
            presets = [n for n in same if n[0] != "'"] or [told]
            nearest = f"; outside, nearest is {told}" if regions == 1 and len(presets) > 1 else ""
            return f"follows{condition} {', '.join(presets)}{where}{nearest}"
    return f"nearest{condition} is {told}"


def _difference(own: StepFunction, table: StepFunction, name: str, counts: list[int], task: Task, case: Case) -> str:
    """How many inputs of one case differ, of which regions, and the one nearest to zero, a number if any."""
    keys = [max(start, min(stop - 1, 0)) for start, stop in differences(own, table)]
    numbers = [key for key in keys if task.domain == "int32" or -INF_KEY - 1 <= key <= INF_KEY]
    key = min(numbers or keys, key=lambda k: (k < 0, abs(k)))
    what = f"0x{key_bits(key):08x} ({np.uint32(key_bits(key)).view(np.float32)})" if task.domain == "float32" else key
    where = ", ".join(f"{n:,} {region}" for n, region in zip(counts, REGIONS, strict=True) if n)
    return (
        f"{sum(counts):,} of 2^32 inputs differ at scale {case[0]}, zero point {case[1]} ({where}); "
        f"{'first' if numbers else 'as'} x = {what}: kernel {own.code_at(key)}, {name} {table.code_at(key)}"
    )


def _apart(own: StepFunction, table: StepFunction, task: Task, case: Case) -> list[int]:
    """How many inputs of each region have different codes; accumulators are all in range."""
    edges = [0, 1 << 31]
    if task.domain == "float32":
        edges[1:1] = [int((2**31 * np.float32(case[0])).view(np.int32)), INF_KEY, INF_KEY + 1]
    counts = [0] * len(REGIONS)
    starts, stops = np.array(differences(own, table), np.int64).reshape(-1, 2).T
    for k, (low, high) in enumerate(itertools.pairwise(edges)):
        for first, last in ((low, high), (-high, -low)):  # the key of -x is -1 - the key of x
            counts[k] += int(np.maximum(np.minimum(stops, last) - np.maximum(starts, first), 0).sum())
    return counts


def changes(kernel: Kernel, fmt: IntFormat, task: Task) -> str:
    """Whether two calls with the same input give different codes."""
    for case in task.cases(fmt):
        x = task.inputs(list(Reading(fmt).tables(task, case).values()), case)
        one, two = task.call(kernel, x, case), task.call(kernel, x, case)
        if (one != two).any():
            k = int(np.argmax(one != two))
            return (
                f"gives other codes when it is called again: {(one != two).sum():,} of {x.size:,} inputs, as "
                f"x = {x[k]!s}: {one[k]}, then {two[k]} (scale {case[0]}, zero point {case[1]})"
            )
    return ""


def by_position(kernel: Kernel, fmt: IntFormat, task: Task) -> str:
    """Whether, and where, the code of a number depends on its place: every probe at every place of short arrays."""
    case = task.cases(fmt)[0]
    x = task.inputs(list(Reading(fmt).tables(task, case).values()), case)
    x = x[:: 1 + x.size // SHORT]
    long = task.inside(kernel, x, case)
    places, witness = {}, ""
    for size in LENGTHS:
        rows = np.stack([task.call(kernel, one.repeat(size), case) for one in x[:, None]])
        other = rows != long[:, None]
        places[size] = np.flatnonzero(other.any(axis=0)).tolist()
        if not witness and other.any():
            k, i = np.argwhere(other)[0]
            witness = f"x = {x[k]!s} is {rows[k, i]} as element {i} of {size}, {long[k]} in a long array"
    if not witness:
        return ""
    fits = [n for n in range(2, BLOCK) if all(places[m] == list(range(m - m % n, m)) for m in LENGTHS)]
    if len(fits) == 1:
        where = f"position: the last n % {fits[0]} elements of n differ from the rest"
    elif fits:
        where = f"length: arrays of {LENGTHS[-1]} elements and fewer differ from long ones"
    else:
        where = "position: " + ", ".join(f"{found} of {m} elements" for m, found in places.items()) + " differ"
    return f"depends on the {where}; {witness} (scale {case[0]}, zero point {case[1]})"


def parts(kernel: Kernel, fmt: IntFormat, task: Task) -> str:
    """What the whole blocks of a kernel follow, and what elements alone."""

    def alone(x: np.ndarray, case: Case) -> np.ndarray:
        return np.concatenate([task.call(kernel, one, case) for one in x[:, None]])

    texts = []
    for codes_of in (lambda x, case: task.inside(kernel, x, case), alone):
        names = [(r, followed(codes_of, r, task, task.cases(fmt))) for r in readings(fmt)]
        texts.append(next((f"{r.told(fmt)} {described(n, r.fmt)}" for r, n in names if n), " no point of the space"))
    return f"long arrays follow{texts[0]}; single elements{texts[1]}"


def report(kernel: Kernel, fmt: IntFormat, task: Task = QUANTIZE) -> str:
    """A sentence or two about a kernel."""
    codes = task.call(kernel, np.array([1, 2, 3], task.domain), task.cases(fmt)[0])
    if (codes.shape, codes.dtype) != ((3,), fmt.storage):
        return (
            f"gives {codes.dtype} of shape {codes.shape} for 3 numbers, need {fmt.storage} of shape (3,) ({fmt.name})"
        )
    if told := changes(kernel, fmt, task):
        return told
    if told := by_position(kernel, fmt, task):
        return f"{told}; {parts(kernel, fmt, task)}"
    for reading in readings(fmt):
        names = followed(lambda x, case: task.inside(kernel, x, case), reading, task, task.cases(fmt))
        if names:
            return f"follows{reading.told(fmt)} {described(names, reading.fmt)} on every probe"
    return nearest(kernel, fmt, task)


if __name__ == "__main__":
    with np.errstate(all="ignore"):
        for function in (kernel, half_up, half_away, vectorized):
            print(f"{function.__name__}: {report(function, ALL['uint8'])}")
        for function in (requantize, shifted):
            print(f"{function.__name__}: {report(function, ALL['int8'], REQUANTIZE)}")
