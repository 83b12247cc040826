"""The 8-bit dynamic maps of bitsandbytes, bit for bit: its steps in binary32, on Python floats rounded after each."""

import struct


def _round(value: float) -> float:
    return struct.unpack("<f", struct.pack("<f", value))[0]


def _edges(count: int) -> list[float]:
    """torch.linspace(0.1, 1, count + 1): from the nearer end, product and sum in one rounding (fused)."""
    start = _round(0.1)
    step = _round(_round(1.0 - start) / count)
    half = (count + 1) // 2
    return [_round(start + step * k) if k < half else _round(1.0 - step * (count - k)) for k in range(count + 1)]


def _dynamic(*, signed: bool, exponent_bits: int = 7) -> tuple[float, ...]:
    values = [0.0, 1.0]
    for i in range(exponent_bits):
        edges = _edges(2 ** (i + 7 - exponent_bits) if signed else 2 ** (i + 8 - exponent_bits))
        power = _round(10.0 ** (i - exponent_bits + 1))
        means = [_round(power * (_round(a + b) / 2)) for a, b in zip(edges, edges[1:], strict=False)]
        values += means + ([-v for v in means] if signed else [])
    return tuple(sorted(values))


DYNAMIC_SIGNED = _dynamic(signed=True)
DYNAMIC_UNSIGNED = _dynamic(signed=False)
