"""Quantize a matrix in NumPy and in JAX: the same codes, scales and values, bit for bit."""

import numpy as np

import jaxquant
import refquant
from refquant.formats import ALL

weight = np.random.default_rng(0).normal(size=(256, 512)).astype(np.float32)

spec = refquant.QuantSpec(ALL["int4"], refquant.PerGroup(1, 32))
reference = refquant.quantize_tensor(weight, spec)
device = jaxquant.quantize_tensor(weight, spec)
values = refquant.dequantize_tensor(reference)

differing = int(np.count_nonzero(reference.codes != np.asarray(device.codes)))
differing += int(np.count_nonzero(reference.scale != np.asarray(device.scale)))
error = float(np.linalg.norm(weight - values) / np.linalg.norm(weight))
sizes = f"{reference.codes.size:,} codes and {reference.scale.size:,} scales"
print(f"{sizes}: {differing} differ; relative error {error:.4f}")
