"""The 8-bit dynamic maps of bitsandbytes, made by their rule in float64 and rounded once to binary32."""

import struct


def _dynamic(*, signed: bool, exponent_bits: int = 7) -> tuple[float, ...]:
    values = [0.0, 1.0]
    for i in range(exponent_bits):
        count = 2 ** (i + 7 - exponent_bits) if signed else 2 ** (i + 8 - exponent_bits)
        edges = [0.1 + 0.9 * k / count for k in range(count + 1)]
        means = [10.0 ** (i - exponent_bits + 1) * (a + b) / 2 for a, b in zip(edges, edges[1:], strict=False)]
        values += means + ([-v for v in means] if signed else [])
    values.sort()
    return struct.unpack(f"<{len(values)}f", struct.pack(f"<{len(values)}f", *values))


DYNAMIC_SIGNED = _dynamic(signed=True)
DYNAMIC_UNSIGNED = _dynamic(signed=False)
