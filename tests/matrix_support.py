"""The whole matrix of layers as data: kind x format x granularity x inputs x dtype, and which of it has a meaning.

A weights-only layer has a float product (LAY-7), so its x has one element that is not zero in each sum, a power of two:
then the product is exact in any order, and bits can be demanded of it too.
"""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
from layers_support import KINDS, SUBSCRIPTS, inputs, spec
from strategies import halves

from refquant import qat, qtensor
from refquant.formats import ALL, IntFormat
from refquant.granularity import PerAxis, PerGroup, PerTensor
from refquant.spec import QuantSpec

ROWS = {"embed": ((2, 3), (7, 37), PerAxis(0), 1, None, {})}
LAYERS = KINDS | ROWS
FORMATS = ("int8", "int4", "int3", "int2", "nf4", "e4m3fn")
GRAINS = ("tensor", "channel", "group")
#: What happens to x: left in float; int8 with a scale of its own range or a constant one, of all or of each token.
MODES = ("float", "dynamic tensor", "dynamic token", "static tensor", "static token")
DTYPES = ("float32", "bfloat16")


@dataclass(frozen=True)
class Point:
    """One layer: a key of LAYERS, FORMATS, GRAINS, MODES; the dtype of x and of the result."""

    kind: str
    weights: str
    grain: str
    mode: str
    dtype: str

    @property
    def refused(self) -> str | None:
        """Why there is no such layer."""
        if self.mode == "float":
            return None
        if self.kind == "embed":
            return "rows have no inputs to quantize, static or dynamic (LAY-6)"
        if not isinstance(ALL[self.weights], IntFormat):
            return "codes that are no integers have no integer sums (LAY-7)"
        if self.grain == "group" and LAYERS[self.kind][3] is None:
            return "groups need one summed axis (LAY-3)"
        return None

    @property
    def spec(self) -> QuantSpec:
        """Of the weight; groups are ragged."""
        _, shape, channel, summed, _, _ = LAYERS[self.kind]
        axis = len(shape) - 2 if summed is None else summed
        grain = {"tensor": PerTensor(), "channel": channel, "group": PerGroup(axis, 16 if shape[axis] > 16 else 3)}
        return spec(self.weights, grain[self.grain])

    @property
    def x(self) -> str:
        """Which of `arrays` it runs on."""
        return f"{self.mode.split()[0]} {self.dtype}"

    def run(self, package: Any, x: Any, weight: Any, bias: Any) -> Any:
        """The layer in refquant.qat or jaxquant.qat."""
        _, shape, _, _, token, options = LAYERS[self.kind]
        if self.kind == "embed":
            more = {} if self.mode == "float" else {"inputs": spec("int8")}
            return package.embed(x, weight, dtype=self.dtype, **more)
        options = options | {"dtype": self.dtype}
        if self.mode != "float":
            options["inputs"] = spec("int8", PerTensor() if self.mode.endswith("tensor") else token)
        if self.mode.startswith("static"):
            options["input_scale"] = static_scale(self)
        first = (options.pop("subscripts"),) if "subscripts" in options else ()
        name = "einsum" if first else self.kind if self.kind in SUBSCRIPTS else "conv"
        return getattr(package, name)(*first, x, weight, bias, **options)


ALL_POINTS = [Point(*values) for values in itertools.product(LAYERS, FORMATS, GRAINS, MODES, DTYPES)]
POINTS = [point for point in ALL_POINTS if point.refused is None]


def of_kind(kind: str) -> list[Point]:
    """The layers of one kind."""
    return [point for point in POINTS if point.kind == kind]


def static_scale(point: Point) -> np.ndarray:
    """A constant, or one a token."""
    x_shape, _, _, _, token, _ = LAYERS[point.kind]
    shape = () if point.mode.endswith("tensor") else token.scale_shape(x_shape)
    return np.float32(0.0371) * powers(shape)


def powers(shape: tuple) -> np.ndarray:
    """1, 1/2, 1/4, 1, ..."""
    return np.float32(0.5) ** (np.arange(int(np.prod(shape))) % 3).astype(np.float32).reshape(shape)


@functools.cache
def arrays(kind: str) -> dict[str, np.ndarray]:
    """Master weight and bias, and x by the names of `Point.x`; most values are within 2 ulp of half a step."""
    rng = np.random.default_rng(len(kind))
    x_shape, w_shape, channel, _, token, _ = LAYERS[kind]
    steps = np.concatenate([halves(1 / n, -n, n) for n in (127, 7, 3, 1)])
    master = np.clip(rng.choice(steps, w_shape), -1, 1)
    axes = [axis for axis in range(len(w_shape)) if channel.scale_shape(w_shape)[axis] == 1]
    master[tuple(slice(None, None, 16) if axis in axes else slice(None) for axis in range(len(w_shape)))] = -1
    master = (master * powers(channel.scale_shape(w_shape))).astype(np.float32)
    rows = w_shape[0] if kind in ("attend", "embed") else w_shape[-1]
    found = {"master": master, "bias": rng.standard_normal(rows).astype(np.float32)}
    if kind == "embed":
        count, table = int(np.prod(x_shape)), w_shape[0]
        ids = (np.arange(count) * 5 % (2 * table + 5) - table - 2).astype(np.int32).reshape(x_shape)  # some unknown
        return found | {f"float {dtype}": ids for dtype in DTYPES}
    own = np.clip(rng.choice(halves(1 / 127, -127, 127), x_shape), -1, 1)
    own[first_of(token, x_shape)] = 1
    single = np.zeros(x_shape, np.float32)
    single[first_of(token, x_shape, 3)] = 2 * powers(token.scale_shape(x_shape)).reshape(-1)
    values = {
        "dynamic": own * powers(token.scale_shape(x_shape)),
        "static": inputs(rng, x_shape, np.float32(0.0371), special=True),
        "float": single,
    }
    with np.errstate(all="ignore"):
        return found | {f"{name} {dtype}": values[name].astype(dtype) for name in values for dtype in DTYPES}


def first_of(token: Any, shape: tuple, at: int = 0) -> tuple:
    """The index of one element of each token."""
    scales = token.scale_shape(shape)
    kept = np.indices(scales).reshape(len(shape), -1)
    return tuple(kept[axis] if size == shape[axis] else min(at, shape[axis] - 1) for axis, size in enumerate(scales))


@functools.cache
def converted(point: Point) -> qtensor.QTensor:
    """What refquant stores."""
    return qtensor.quantize_tensor(arrays(point.kind)["master"], point.spec)


@functools.cache
def wanted(point: Point) -> np.ndarray:
    """What refquant gives: the same from the master values and from the codes."""
    found = arrays(point.kind)
    with np.errstate(all="ignore"):
        want = point.run(qat, found[point.x], converted(point), found["bias"])
        again = point.run(qat, found[point.x], qat.Trained(found["master"], spec=point.spec), found["bias"])
    assert np.array_equal(want, again, equal_nan=True), point
    return want


def weight_name(point: Point) -> str:
    """Layers of one name have one weight."""
    return f"{point.weights} {point.grain}"


def in_training(points: list[Point], master: Any) -> dict[str, Any]:
    """The weights of the layers as jaxquant's Trained, of one master parameter."""
    from jaxquant.qat import Trained

    return {weight_name(point): Trained(master, spec=point.spec) for point in points}


def run_all(points: list[Point], xs: dict[str, Any], weights: dict[str, Any], bias: Any) -> list[Any]:
    """All layers, in jaxquant; a master parameter stands for all weights in training."""
    from jaxquant import qat as jax_qat

    weights = weights if isinstance(weights, dict) else in_training(points, weights)
    return [point.run(jax_qat, xs[point.x], weights[weight_name(point)], bias) for point in points]


def in_context(kind: str, number: int) -> list[Point]:
    """Every weight of a kind once, x treated in another way and mostly of another dtype by the next number."""
    chosen, points = [], of_kind(kind)
    for index, name in enumerate(dict.fromkeys(weight_name(point) for point in points)):
        same = [point for point in points if weight_name(point) == name]
        modes = list(dict.fromkeys(point.mode for point in same))
        mode, dtype = modes[(index + number) % len(modes)], DTYPES[(index + number) % 2]
        chosen.append(next(point for point in same if (point.mode, point.dtype) == (mode, dtype)))
    return chosen
