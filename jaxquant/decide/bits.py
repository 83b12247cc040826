"""Quantizing a model's weights by both packages and comparing every bit: the check behind every row."""

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

import jaxquant
import refquant
from jaxquant.decide.targets import Target
from jaxquant.qtensor import QTensor
from refquant.files.quantized import Plan

# range, scale and codes as one program: a third of the compilations of one program each
_quantize_tensor = jax.jit(jaxquant.quantize_tensor, static_argnums=1)


@dataclass(frozen=True)
class Checked:
    """A tensor quantized by JAX, and how it compared with NumPy.

    Attributes:
      q: JAX's codes, scales and zero points.
      compared: how many codes, scales and zero points there are.
      differing: how many of them have other bits in NumPy.
    """

    q: QTensor
    compared: int
    differing: int


class Quantizer:
    """Quantizes the weights of a target; a tensor that several rungs treat alike is done once."""

    def __init__(self, target: Target):
        """For the weights of one target."""
        self._target = target
        self._done: dict[tuple[str, str], Checked] = {}

    def __call__(self, plans: tuple[Plan, ...]) -> dict[str, Checked]:
        """Name → Checked for every tensor that the plans quantize."""
        return {plan.info.name: self._one(plan) for plan in plans if plan.scheme is not None}

    def _one(self, plan: Plan) -> Checked:
        key = (plan.info.name, str(plan.scheme))
        if key not in self._done:
            x = np.asarray(self._target.tensor(plan.info.name))
            self._done[key] = check(x, _quantize_tensor(x, plan.spec), plan)
        return self._done[key]


def check(x: np.ndarray, q: QTensor, plan: Plan) -> Checked:
    """Compares JAX's tensor with NumPy's, bit for bit."""
    want = refquant.quantize_tensor(x, plan.spec)
    pairs = [(q.codes, want.codes), (q.scale, want.scale)]
    if want.zero_point is not None:
        pairs.append((q.zero_point, want.zero_point))
    compared = sum(int(np.size(b)) for _, b in pairs)
    return Checked(q, compared, sum(differing(a, b) for a, b in pairs))


def differing(a: Any, b: Any) -> int:
    """How many elements differ in any bit; every element where shape or dtype differ."""
    a, b = np.asarray(a), np.asarray(b)
    if a.shape != b.shape or a.dtype != b.dtype:
        return max(a.size, b.size)
    whole = np.dtype(f"u{a.dtype.itemsize}")
    return int(np.count_nonzero(np.ascontiguousarray(a).view(whole) != np.ascontiguousarray(b).view(whole)))
