"""One good call of every public function that both packages have, and what nobody should pass instead.

An argument that is a function makes it, given the package: what one package returns is for that package.
"""

import numpy as np

from refquant.conventions import CAST, DEFAULT, RESCALE, RESCALES
from refquant.estimators import Lsq, Ste
from refquant.formats import ALL
from refquant.granularity import PerTensor
from refquant.spec import QuantSpec, ScaleRule
from refquant.thresholds import thresholds

F32, I8, U32 = np.ones((4, 6), np.float32), np.ones((4, 6), np.int8), np.ones((4, 6), np.uint32)
I32, ROW, ONE, ZERO = np.ones((4, 6), np.int32), np.ones(5, np.float32), np.float32(1), np.int32(0)
INT8, UINT4, SPEC = ALL["int8"], ALL["uint4"], QuantSpec(ALL["int8"])
TILES = {"fmt": INT8, "granularity": PerTensor()}
UNSIGNED = {"fmt": UINT4, "granularity": PerTensor()}
LAYER = {"inputs": SPEC, "input_scale": None, "input_zero_point": None, "input_estimator": Ste(), "dtype": "float32"}
STATIC = LAYER | {"input_scale": ONE}
WINDOW = {"strides": 1, "padding": "SAME", "input_dilation": 1, "kernel_dilation": 1, "feature_group_count": 1}
SEARCH = {"fmt": INT8, "rule": ScaleRule(), "convention": DEFAULT, "power": 2, "smallest": 99}
FIXED = {"fmt": INT8, "rescale": RESCALES["gemmlowp"].point}


def weight(*shape: int):  # noqa: ANN201
    return lambda package: package("qtensor").quantize_tensor(np.ones(shape, np.float32), SPEC)


def state(kind: str):  # noqa: ANN201
    return lambda package: package(f"calibration.{kind}").init()


#: "module.function", with a word behind it for a second call → arguments, options.
CALLS = {
    "affine.quantize": ((F32, ONE, ZERO), TILES | {"convention": DEFAULT, "cast": CAST}),
    "affine.dequantize": ((I8, ONE, ZERO), TILES | {"dtype": "float32"}),
    "affine.fake_quantize": ((F32, ONE, ZERO), TILES | {"convention": DEFAULT, "cast": CAST}),
    "affine.fake_quantize_vjp": ((F32, ONE, ZERO, F32), TILES | {"convention": DEFAULT, "mask": "rounded"}),
    "bits.flush": ((F32,), {}),
    "bits.from_key": ((I32,), {}),
    "bits.ordered_key": ((F32,), {}),
    "bits.scalb": ((F32, ZERO), {}),
    "calibration.ema.init": (((),), {"granularity": PerTensor(), "averaging_constant": 0.5, "capacity": 5}),
    "calibration.minmax.init": (((),), {"granularity": PerTensor()}),
    "calibration.entropy.finalize": ((state("linear"),), {"fmt": INT8}),
    "calibration.mse.finalize": ((state("linear"),), SEARCH),
    "calibration.mse.search": ((F32,), SEARCH | {"granularity": PerTensor()}),
    "calibration.percentile.finalize": ((state("histogram"),), {"millionths": 999, "two_sided": False}),
    "codec.decode": ((I8,), {"fmt": INT8}),
    "codec.encode": ((F32,), {"fmt": INT8, "cast": CAST}),
    "packing.pack": ((I8,), {"fmt": INT8}),
    "packing.unpack": ((np.zeros(24, np.uint8), (4, 6)), {"fmt": INT8}),
    "qat.bias.integer_bias": ((ROW, ONE, ONE), {}),
    "qat.conv.conv": ((np.ones((2, 5, 3), np.float32), weight(3, 3, 5), ROW), LAYER | WINDOW),
    "qat.dot.dense": ((F32, weight(6, 5), ROW), LAYER),
    "qat.dot.dense static": ((F32, weight(6, 5), ROW), STATIC),
    "qat.einsum.einsum": (("ab,bc->ac", F32, weight(6, 5), ROW), LAYER),
    "qat.embedding.attend": ((F32, weight(5, 6), ROW), LAYER),
    "qat.embedding.embed": ((np.int32([0, 1]), weight(6, 5)), {"dtype": "float32"}),
    "qat.folding.fold": ((F32[:, :5], *[ROW] * 5), {"epsilon": 0.5}),
    "qat.integer.convolve": (
        (np.ones((2, 5, 3), np.int8), np.ones((3, 3, 5), np.int8)),
        WINDOW | {"max_a": 128, "max_b": 128},
    ),
    "qat.integer.matmul": ((I8, np.ones((6, 5), np.int8)), {"max_a": 128, "max_b": 128}),
    "qat.learned.effective": ((Lsq(), (ONE,), INT8), {}),
    "qat.learned.learned_vjp": ((Lsq(), F32, (ONE,), F32), TILES | {"convention": DEFAULT}),
    "qat.lsq.lsq": ((F32, ONE), TILES),
    "qat.lsq.lsq_init": ((F32,), TILES),
    "qat.lsq.lsq_vjp": ((F32, ONE, F32), TILES),
    "qat.lsq_plus.lsq_plus": ((F32, ONE, ONE), TILES),
    "qat.lsq_plus.lsq_plus_from_range": ((F32, F32), {"fmt": INT8}),
    "qat.lsq_plus.lsq_plus_init": ((F32,), TILES),
    "qat.lsq_plus.lsq_plus_vjp": ((F32, ONE, ONE, F32), TILES),
    "qat.pact.pact": ((F32, ONE), UNSIGNED),
    "qat.pact.pact_vjp": ((F32, ONE, F32), UNSIGNED),
    "qat.stochastic.stochastic_fake_quantize": ((F32, ONE, ZERO, U32), TILES),
    "qat.stochastic.stochastic_fake_quantize_vjp": ((F32, ONE, ZERO, U32, F32), TILES),
    "qat.stochastic.stochastic_quantize": ((F32, ONE, ZERO, U32), TILES),
    "qtensor.dequantize_tensor": ((weight(6, 5),), {"dtype": "float32"}),
    "qtensor.quantize_tensor": ((F32, SPEC), {}),
    "requantize.requantize": ((I32, np.float32(0.5), ZERO), {"fmt": INT8, "rescale": RESCALE}),
    "requantize.requantize fixed": ((I32, 0.5, ZERO), FIXED),
    "requantize.requantize_fixed": ((I32, np.int32(2**30), ZERO, ZERO), FIXED),
    "rounding.round_stochastic": ((F32, U32), {}),
    "rounding.round_to_integer": ((F32,), {"ties": "even"}),
    "scales.choose_scale": ((F32, F32), {"fmt": INT8, "rule": ScaleRule()}),
    "scales.range_of": ((F32,), {"granularity": PerTensor()}),
    "sums.tree_sum": ((F32, 0), {}),
    "thresholds.apply": ((thresholds(DEFAULT, ALL["int2"]), F32), {}),
    "thresholds.thresholds": ((DEFAULT, ALL["int2"], 1.0, 0), {}),
}
for kind in ("minmax", "ema", "histogram", "linear"):
    CALLS[f"calibration.{kind}.update"] = ((state(kind), F32), {})
    CALLS[f"calibration.{kind}.merge"] = ((state(kind), state(kind)), {})
    CALLS[f"calibration.{kind}.finalize"] = ((state(kind),), {})

#: Not swept, and why.
OTHERS = {
    "calibration.entropy.lg": "a step of the entropy search",
    "calibration.histogram.init": "takes nothing",
    "calibration.linear.init": "takes nothing",
    "thresholds.probes": "any number of step functions",
    "thresholds.tabulate": "takes a function of the caller's",
}

#: In place of an array, a state or a number.
ARRAYS = {
    "None": None,
    "text": "text",
    "list": [1.0, 2.0],
    "complex": 1j,
    "set": {1},
    "type": int,
    "dtype": np.float32,
    "large": 2**70,
    "float": 2.5,
    "true": True,
    "complex64": np.ones((4, 6), np.complex64),
    "object": np.array([None, 1], object),
    "bool": np.ones((4, 6), bool),
    "texts": np.array(["a"]),
    "float64": np.ones((4, 6)),
    "int64": np.ones((4, 6), np.int64),
    "uint8": np.ones((4, 6), np.uint8),
    "big-endian": np.ones((4, 6), ">f4"),
    "0-d": np.float32(1),
    "0-d int8": np.int8(1),
    "vector": np.ones(7, np.float32),
    "vector int8": np.ones(7, np.int8),
    "rank 3": np.ones((2, 4, 6), np.float32),
    "empty": np.zeros((0, 6), np.float32),
    "masked": np.ma.array(F32),
    "masked int8": np.ma.array(I8),
    "masked 0-d": np.ma.array(ONE),
    "dates": np.ones((4, 6), "M8[s]"),
    "float128": np.ones((4, 6), np.longdouble),
    "struct": np.zeros(3, [("a", "f4")]),
}
#: In place of anything else.
VALUES = {
    "None": None,
    "text": "text",
    "negative": -5,
    "float": 1.5,
    "NaN": float("nan"),
    "true": True,
    "int64": np.int64(1),
    "large": 2**70,
    "complex": 1j,
    "list": [1],
    "empty": (),
    "pair": (0, 1),
    "floats": (0.0,),
    "twice": (0, 0),
    "negatives": (-24, -1),
    "dict": {},
    "type": int,
    "dtype": np.float32,
    "array": np.ones(2),
    "lambda": repr,
    "format": UINT4,
}
#: Of both, in place of two arguments at once.
PAIRED = ("masked", "texts", "vector", "text", "list", "format")
PLAIN = ("axis", "shape", "subscripts", "estimator", "spec", "convention", "fmt", "steps")
