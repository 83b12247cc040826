"""Tiles on shapes alone, and slices of large arrays: what a caller must not see (GRA-1..GRA-3)."""

import numpy as np
import pytest
import strategies as some
from bits import assert_same

from refquant import affine, blocks
from refquant.formats import ALL
from refquant.granularity import PerAxis, PerBlock, PerGroup, PerTensor, PerToken


@pytest.mark.parametrize("chunk", [1, 7])
@pytest.mark.parametrize(("shape", "granularity"), some.LAYOUTS)
def test_in_chunks_property_bits_do_not_depend_on_the_slices(monkeypatch, shape, granularity, chunk):
    """Operands without axes, with one element along the sliced axis, and with all."""
    fmt = ALL["uint8"]
    x, scale = some.layout_arrays(shape, granularity, fmt, 5)
    zero_point = np.random.default_rng(1).integers(0, 256, scale.shape).astype(np.int32)
    keywords = {"fmt": fmt, "granularity": granularity}
    codes = affine.quantize(x, scale, zero_point, **keywords)
    values = affine.dequantize(codes, scale, zero_point, **keywords)
    monkeypatch.setattr(blocks, "CHUNK", chunk)
    assert_same(affine.quantize(x, scale, zero_point, **keywords), codes)
    assert_same(affine.dequantize(codes, scale, zero_point, **keywords), values)


def test_tile_golden_sizes_of_0_and_1():
    """GRA-1: a tile has at least one element along an axis, and one element stays one."""
    for granularity, tile, scales in [
        (PerTensor(), (1, 3, 1), ()),
        (PerAxis(1), (1, 1, 1), (1, 3, 0)),
        (PerAxis((0, -1)), (1, 3, 1), (1, 1, 0)),
        (PerToken(), (1, 1, 1), (1, 3, 0)),
        (PerGroup(1, 2), (1, 2, 1), (1, 2, 0)),
        (PerBlock((2, 4)), (1, 2, 4), (1, 2, 0)),
    ]:
        assert granularity.tile((1, 3, 0)) == tile
        assert granularity.scale_shape((1, 3, 0)) == scales
    assert blocks.to_blocks(np.float32([[7]]), granularity=PerTensor()).shape == (1, 1, 1, 1)
