"""Quantization-aware operations: each forward beside its hand-written gradient, usable without Flax."""

from jaxquant.qat.dot import dense

__all__ = ["dense"]
