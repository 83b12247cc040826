"""Layers stacked along leading axes: one tensor in a file, which tells how many axes count layers (FIL-8)."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

jax = pytest.importorskip("jax")

import refquant  # noqa: E402
from jaxquant import diff, store  # noqa: E402
from jaxquant.qtensor import QTensor, dequantize_tensor, quantize_tensor  # noqa: E402
from jaxquant.store_stacked import as_whole  # noqa: E402
from refquant.files import UnreadableFile, read_header  # noqa: E402
from refquant.files.quantized import stored_plans  # noqa: E402
from refquant.files.stacked import of_one, stacked_axes, whole  # noqa: E402
from refquant.schemes import parse_tensor  # noqa: E402
from tests.test_store import GOOD, described  # noqa: E402

GRAINS = {
    "tensor": refquant.PerTensor(),
    "columns": refquant.PerAxis(1),
    "from the end": refquant.PerAxis(-1),
    "both": refquant.PerAxis((0, 1)),
    "groups": refquant.PerGroup(0, 5),
    "groups from the end": refquant.PerGroup(-2, 5),
    "blocks": refquant.PerBlock((5, 2)),
}
ONE = (12, 6)


def layers(scheme: str, grain: refquant.Granularity, lead: tuple[int, ...]):
    """Layers of one spec, each with a range of its own; what they stand for, one after the other."""
    spec = dataclasses.replace(parse_tensor(scheme).spec(), granularity=grain)
    random = np.random.Generator(np.random.PCG64(3))
    x = random.normal(size=(*lead, *ONE)).astype(np.float32)
    x *= 2 ** np.arange(np.prod(lead), dtype=np.float32).reshape(*lead, 1, 1)
    stacked, real = quantize_one(spec), lambda x: dequantize_tensor(quantize_tensor(x, spec))
    for _ in lead:
        stacked = jax.vmap(stacked)
    return stacked(x), np.stack([np.asarray(real(one)) for one in x.reshape(-1, *ONE)]).reshape(x.shape)


def quantize_one(spec):
    return lambda x: quantize_tensor(x, spec)


@pytest.mark.parametrize("lead", [(3,), (1,), (2, 3)], ids=str)
@pytest.mark.parametrize("scheme", ["uint4:tensor:asym", "int3:tensor:sf16", "uint8:tensor:fzero"])
@pytest.mark.parametrize("grain", GRAINS)
def test_stacked_layers_come_back_with_their_bits(tmp_path, grain, scheme, lead):
    q, real = layers(scheme, GRAINS[grain], lead)
    size = store.save(tmp_path / "w", {"w": q})
    assert (tmp_path / "w").stat().st_size == size
    back = store.load(tmp_path / "w")["w"]
    assert jax.tree.structure(back) == jax.tree.structure(q)
    for a, b in zip(jax.tree.leaves(q), jax.tree.leaves(back), strict=True):
        assert np.asarray(a).dtype == b.dtype and a.shape == b.shape and np.asarray(a).tobytes() == b.tobytes()
    assert np.asarray(dequantize_tensor(as_whole(back))).tobytes() == real.tobytes()


def test_a_file_of_stacked_layers_reads_as_one_tensor(tmp_path):
    """Codes, scales and entry are those of the whole tensor, so that a reader who does not know `stacked` is right."""
    q, real = layers("uint4:tensor:asym", refquant.PerTensor(), (3,))
    store.save(tmp_path / "w", {"w": q})
    header = read_header(tmp_path / "w")
    entry = json.loads(header.metadata["refquant:w"])
    assert (entry["scheme"], entry["channel_axis"], entry["stacked"]) == ("uint4:channel:asym", [0], 1)
    (one,) = stored_plans(header)
    assert header.tensor("w.scale").shape == header.tensor("w.zero_point").shape == (3, 1, 1)
    assert one.stacked == 1 and one.metadata() == {"refquant:w": header.metadata["refquant:w"]}
    known = as_whole(store.load(tmp_path / "w")["w"])
    read = QTensor(known.codes, known.scale, known.zero_point, one.spec)
    assert np.asarray(dequantize_tensor(read)).tobytes() == real.tobytes()


def test_the_same_file_does_not_differ_and_another_does(tmp_path):
    q, real = layers("int4:tensor", refquant.PerAxis(1), (3,))
    other = dataclasses.replace(q, scale=q.scale.at[2].multiply(2))
    (same,) = diff.compare({"w": q}, {"w": real})["tensors"]
    (apart,) = diff.compare({"w": q}, {"w": other})["tensors"]
    assert same["equal"] and not apart["equal"] and 0 < apart["differing"] <= 72


@pytest.mark.parametrize(
    ("grain", "need"),
    [(refquant.PerAxis((1,)), r"PerAxis\(axis=1\)"), (refquant.PerAxis(()), r"PerTensor\(\)")],
    ids=["tuple of one", "no axis"],
)
def test_what_would_come_back_otherwise_is_refused(tmp_path, grain, need):
    q, _ = layers("int4:tensor", grain, (3,))
    with pytest.raises(ValueError, match=rf"save: 'w' has layers stacked with PerAxis\(.*\), need {need} \(the same"):
        store.save(tmp_path / "w", {"w": q})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "change",
    [
        {"stacked": 1},  # the layers share the scale
        {"stacked": 2, "scheme": "int4:channel", "channel_axis": [0, 1]},  # as many as there are axes
        {"stacked": 1, "scheme": "int4:channel", "channel_axis": 1},
        {"stacked": 1, "scheme": "int4:g2", "group_axis": 0},
        {"stacked": -1},
        {"stacked": True},
        {"stacked": "1"},
    ],
    ids=str,
)
def test_axes_that_cannot_count_layers_are_refused(tmp_path, change):
    """By every reader, with the name of the file."""
    header = described(tmp_path / "w", json.dumps(GOOD | change))
    for reader, argument in ((store.load, tmp_path / "w"), (stored_plans, header)):
        with pytest.raises(UnreadableFile, match="w: metadata of 'w' is .*(count|stacked)"):
            reader(argument)


@pytest.mark.parametrize("count", [0, 1, 2, 3])
@pytest.mark.parametrize("grain", GRAINS)
def test_a_spec_is_known_from_that_of_the_whole(grain, count):
    spec = dataclasses.replace(parse_tensor("int4:tensor").spec(), granularity=GRAINS[grain])
    shape = (2, 3, 4)[:count] + ONE
    assert of_one(whole(spec, count), count) == spec
    scales = (*shape[:count], *spec.granularity.scale_shape(ONE))
    found = stacked_axes(spec, shape, scales)
    assert found == count or whole(spec, found).granularity.scale_shape(shape) == scales
