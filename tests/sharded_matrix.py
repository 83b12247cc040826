"""Run by test_layers_matrix.py on 8 emulated devices: every kind of layer in every layout has refquant's bits."""

from __future__ import annotations

import os
import sys

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import matrix_support
import numpy as np
from bits import assert_same
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from layers_support import jax_weight
from matrix_support import LAYERS, Point, arrays, converted, in_training, run_all, wanted, weight_name

#: kind -> (shape of x, shape of the weight, further options: sizes that 8 devices divide; the axis of x that is
#: summed, that of the weight, the axis of its output channels).  Depthwise: a channel of x goes with those it makes.
WIDE = {
    "dense": ((8, 4, 64), (64, 8), {}, 2, 0, 1),
    "attend": ((8, 4, 64), (8, 64), {}, 2, 1, 0),
    "heads": ((8, 3, 64), (8, 64, 8, 2), {}, 2, 1, 2),
    "joined": ((8, 3, 8, 9), (8, 9, 8), {}, 2, 0, 2),
    "conv": ((8, 7, 6, 8), (3, 2, 8, 8), {}, 3, 2, 3),
    "dilated": ((8, 6, 6, 8), (2, 2, 8, 8), {"kernel_dilation": 2}, 3, 2, 3),
    "pointwise": ((8, 3, 4, 8), (1, 1, 8, 8), {}, 3, 2, 3),
    "grouped": ((8, 9, 16), (3, 8, 8), {}, 2, 1, 2),
    "depthwise": ((8, 5, 5, 8), (3, 3, 1, 16), {"feature_group_count": 8}, 3, 3, 3),
    "transposed": ((8, 4, 8), (4, 8, 8), {}, 2, 1, 2),
    "embed": ((8, 3), (8, 64), {}, None, 0, 1),
}
SCHEMES = (
    ("int8", "tensor", "static tensor", "bfloat16"),
    ("int4", "channel", "dynamic token", "float32"),
    ("int3", "group", "dynamic token", "bfloat16"),
    ("int2", "channel", "dynamic tensor", "float32"),
    ("nf4", "group", "float", "float32"),
    ("e4m3fn", "tensor", "float", "bfloat16"),
)
#: Mesh axes of x's first axis and summed axis, of the weight's summed axis and output channels.
LAYOUTS = {
    "data": (("d", "m"), None, None, None),
    "rows": (None, "m", "m", None),
    "columns": ("d", None, None, "m"),
    "fully": ("d", "m", "d", "m"),
}


def widen() -> None:
    """The kinds with those sizes, in place of the small ones."""
    for kind, (x, w, more, *_) in WIDE.items():
        _, _, channel, summed, token, options = LAYERS["conv" if kind == "dilated" else kind]
        LAYERS[kind] = (x, w, channel, summed, token, options | more)


def part(rank: int, *placed: tuple) -> P:
    """(axis, mesh axis) pairs as a PartitionSpec; two on one axis share it."""
    names: list[tuple] = [()] * rank
    for axis, name in placed:
        if axis is not None and name is not None:
            names[axis] += name if isinstance(name, tuple) else (name,)
    return P(*(name or None for name in names))


def check(mesh: Mesh, layout: str, kinds: list[str]) -> int:
    """All schemes of some kinds, in training and converted, in one program; how many layers had the right bits."""
    first, deep, rows, columns = LAYOUTS[layout]
    put = lambda value, *placed: jax.device_put(value, NamedSharding(mesh, part(np.ndim(value), *placed)))  # noqa: E731
    given, points = {}, {}
    for kind in kinds:
        _, _, _, x_in, w_in, w_out = WIDE[kind]
        points[kind] = [p for p in (Point(kind, *scheme) for scheme in SCHEMES) if p.refused is None]
        values = arrays(kind)
        xs = {p.x: put(values[p.x], (0, first), (x_in, deep)) for p in points[kind]}
        spread = lambda w, at=(w_in, w_out): put(w, (at[0], rows), (at[1], columns))  # noqa: E731
        weights = {weight_name(p): jax_weight(converted(p)) for p in points[kind]}
        weights = {n: type(w)(spread(w.codes), w.scale, None, w.spec) for n, w in weights.items()}
        given[kind] = xs, spread(values["master"]), weights, values["bias"]

    def program(given: dict) -> dict:
        return {
            kind: (
                run_all(points[kind], xs, master, bias),
                run_all(points[kind], xs, weights, bias),
                {name: w.quantized().codes for name, w in in_training(points[kind], master).items()},
            )
            for kind, (xs, master, weights, bias) in given.items()
        }

    for kind, (trained, stored, codes) in jax.jit(program)(given).items():
        for point, one, other in zip(points[kind], trained, stored, strict=True):
            assert_same(np.asarray(one), wanted(point), call=f"{layout}, in training: {point}")
            assert_same(np.asarray(other), wanted(point), call=f"{layout}, converted: {point}")
            assert_same(np.asarray(codes[weight_name(point)]), converted(point).codes, call=f"{layout}: {point}")
    return 2 * sum(map(len, points.values()))


def main() -> None:
    assert jax.device_count() == 8
    assert LAYERS is matrix_support.LAYERS
    widen()
    mesh, kinds = Mesh(np.array(jax.devices()).reshape(2, 4), ("d", "m")), list(WIDE)
    count = sum(check(mesh, layout, kinds) for layout in LAYOUTS)
    sys.stdout.write(f"same bits: {count} layers of {len(kinds)} kinds in {len(LAYOUTS)} layouts\n")


if __name__ == "__main__":
    main()
