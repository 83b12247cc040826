"""Cases of LAY-14 (specs/60-layers.md): a batch norm folded into the layer before it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from fractions import Fraction

from refquant.granularity import Shape
from specs.vector_cases.arrays import Array, array
from specs.vector_cases.case import Case, VectorFile, vector_file
from specs.vector_cases.inputs import SPECIALS, Ints, f32

SUBNORMAL, SMALLEST, FLT_MAX, ONE, NAN = 0x00000005, 0x00800000, 0x7F7FFFFF, 0x3F800000, 0x7FC00000
#: Variances at which the root, the quotient or the flushing turns; -1 and -0 are none, and have a result all the same.
VARIANCES = (0, 0x80000000, SUBNORMAL, 0x80000005, 0x007FFFFF, SMALLEST, 0x00800001, ONE, 0x3F800001, 0x3F7FFFFF,
             FLT_MAX, 0x7F800000, NAN, 0xBF800000, 0x40000000, 0x7E800000)  # fmt: skip
LAYOUTS: dict[str, Shape] = {"dense": (3, 24), "conv": (2, 3, 2, 20), "depthwise": (3, 3, 1, 18)}
WITHOUT = ((), ("bias",), ("scale",), ("offset",), ("bias", "scale", "offset"))
EPSILONS = {"1e-5": 1e-5, "1e-3": 1e-3, "1e-12": 1e-12, "1": 1.0, "smallest": 2.0**-126, "subnormal": 2.0**-127}
NAMES = ("kernel", "bias", "mean", "var", "scale", "offset")


def files() -> list[VectorFile]:
    cases = [*_specials(), *_zeros(), *_layouts(), *_dtypes(), *_epsilons()]
    return [vector_file("60-layers", "fold", "LAY-14", cases)]


def _case(name: str, args: dict[str, Array], epsilon: float, *flags: str) -> Case:
    return Case(f"fold-{name}", "qat.fold", args, "LAY-14", flags, {"epsilon": epsilon})


def _layer(draw: Ints, shape: Shape, dtypes: dict[str, str] | str = "float32") -> dict[str, Array]:
    """Numbers about 1, variances without a sign; of a dtype for all, or one for each name."""
    found = {}
    for name in NAMES:
        form = shape if name == "kernel" else shape[-1:]
        bits = draw.normalish(math.prod(form), -1)
        dtype = dtypes if isinstance(dtypes, str) else dtypes.get(name, "float32")
        if dtype != "float32":
            bits = [draw.between(0x3400, 0x3FFF) | (draw.word() & 0x8000) for _ in bits]
        sign = 0x7FFFFFFF if dtype == "float32" else 0x7FFF
        found[name] = array(dtype, [b & sign if name == "var" else b for b in bits], form)
    return found


def _specials() -> Iterator[Case]:
    """Every odd number as kernel meets every odd variance; bias, mean, offset and scale are odd as well."""
    channels, draw = len(VARIANCES), Ints(990)
    for epsilon, scale in itertools.product((0.0, 1e-5), ("one", "odd")):
        rows = {name: [draw.pick(SPECIALS) for _ in VARIANCES] for name in ("bias", "mean", "offset", "scale")}
        rows |= {"var": VARIANCES} | ({"scale": [ONE] * channels} if scale == "one" else {})
        kernel = array("float32", [b for b in SPECIALS[:20] for _ in VARIANCES], (20, channels))
        args = {"kernel": kernel} | {name: array("float32", bits) for name, bits in rows.items()}
        yield _case(f"specials-{epsilon:g}-{scale}", args, epsilon, "nan", "infinity", "kept-subnormal", "overflow")


def _zeros() -> Iterator[Case]:
    """The sign of a zero: what is None adds nothing, not +0."""
    zeros = (0, 0x80000000)
    columns = zip(*itertools.product(zeros, zeros, zeros, (ONE, 0x80000000 | ONE)), strict=True)
    args = {"kernel": array("float32", zeros * 8, (1, 16)), "var": array("float32", [ONE] * 16)}
    args |= {k: array("float32", bits) for k, bits in zip(("bias", "mean", "offset", "scale"), columns, strict=True)}
    for without in (("bias",), ("offset",), ("bias", "offset")):
        given = {k: v for k, v in args.items() if k not in without}
        yield _case(f"zeros-{_without(without)}", given, 0.0, "negative-zero")


def _without(names: tuple[str, ...]) -> str:
    return "without_" + "_".join(names) if names else "all"


def _layouts() -> Iterator[Case]:
    for seed, ((name, shape), without) in enumerate(itertools.product(LAYOUTS.items(), WITHOUT)):
        args = {k: v for k, v in _layer(Ints(seed + 900), shape).items() if k not in without}
        flags = ("axis", "epsilon", "precision", *("fma",) * ("offset" in args), *("reciprocal",) * ("scale" in args))
        yield _case(f"{name}-{_without(without)}", args, (1e-5, 1e-3)[seed % 2], *flags)
    yield _case("one-channel", _layer(Ints(950), (3, 1)), 1e-5, "axis")
    yield _case("no-inputs", _layer(Ints(951), (0, 3)), 1e-5, "empty")
    yield _case("no-channels", _layer(Ints(952), (3, 0)), 1e-5, "empty")


def _dtypes() -> Iterator[Case]:
    for dtype in ("float16", "bfloat16"):
        yield _case(dtype, _layer(Ints(960), (2, 3, 12), dtype), 1e-3, "double-rounding", "precision")
        yield _case(f"{dtype}-kernel", _layer(Ints(961), (4, 12), {"kernel": dtype}), 1e-5, "double-rounding")


def _epsilons() -> Iterator[Case]:
    """Beside variances from nothing to much larger, and of its own size: there its own rounding shows."""
    sizes = (0, SUBNORMAL, SMALLEST, 0x00C00000, 0x80C00000, 0x3727C5AC, 0x3DCCCCCD, 0x461C4000)
    for seed, (name, epsilon) in enumerate(EPSILONS.items()):
        draw = Ints(seed + 970)
        near = [f32(Fraction(draw.between(1, 1 << 20), 1 << 18) * Fraction(epsilon)) for _ in range(24)]
        args = _layer(draw, (2, len(sizes) + len(near))) | {"var": array("float32", [*sizes, *near])}
        flags = ("kept-subnormal",) if name in ("smallest", "subnormal") else ("precision",)
        yield _case(f"epsilon-{name}", args, epsilon, "epsilon", *flags)
