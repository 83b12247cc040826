"""Tensors run by run of their rows (FIL-9): the bits of the whole, and memory that does not grow with a tensor."""

from __future__ import annotations

import json
import tracemalloc

import numpy as np
import pytest

pytest.importorskip("jax")
pytest.importorskip("typer")

import jaxquant  # noqa: E402
import jaxquant.qtensor  # noqa: E402
import refquant  # noqa: E402
from jaxquant import store, store_read  # noqa: E402
from jaxquant.cli import main  # noqa: E402
from jaxquant.diff import compare  # noqa: E402
from jaxquant.grids import against_grid  # noqa: E402
from jaxquant.store_read import opened, rows_of  # noqa: E402
from jaxquant.streams import quantized_runs  # noqa: E402
from refquant.files import UnreadableFile, Writer, read_header, read_tensor  # noqa: E402
from refquant.files.runs import PIECE, runs, scales_of, spans, unit  # noqa: E402
from refquant.granularity import PerAxis, PerBlock, PerGroup, PerTensor  # noqa: E402
from refquant.schemes import parse, parse_tensor  # noqa: E402

MB = 10**6
GRAINS = (PerTensor(), PerAxis(0), PerAxis(1), PerAxis((0, 1)), PerGroup(0, 3), PerGroup(1, 4), PerGroup(0, 99),
          PerBlock((2, 3)), PerBlock((64, 2)))  # fmt: skip
FORMATS = ("int4:tensor", "uint4:tensor:asym", "int3:tensor:signed:sf16", "uint8:tensor:fzero", "e4m3fn", "int2:tensor")
SHAPES = ((37, 5), (16, 6), (9, 2, 3), (0, 5), (5, 0), (1, 7))


def values(shape):
    """Random, with what is not finite and a row of zeros where there is room."""
    x = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    if x.size > 40:
        x[0, 0], x[1, 0], x[5], x[6] = np.nan, -np.inf, 0, np.nan
    return x


def spec_of(text, grain):
    spec = parse_tensor(text).spec()
    return refquant.QuantSpec(spec.fmt, grain, spec.scale)


@pytest.mark.parametrize("grain", GRAINS, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_runs_are_the_rows_and_split_no_tile_and_no_byte(shape, grain):
    whole, step = unit(shape, grain), int(np.prod(shape[1:]))
    found = list(runs(shape, whole, 2 * step))
    assert [row for start, stop in found for row in range(start, stop)] == list(range(shape[0]))
    for start, stop in found[:-1]:
        assert (stop - start) % whole == 0 and stop * step % 8 == 0
        assert spans(shape, grain) or stop % grain.tile(shape)[0] == 0
    scales = np.arange(np.prod(grain.scale_shape(shape), dtype=int)).reshape(grain.scale_shape(shape))
    for start, stop in found:
        assert scales[scales_of(shape, grain, start, stop)].shape == grain.scale_shape((stop - start, *shape[1:]))


def test_runs_golden():
    assert list(runs((10, 4), 2, 16)) == [(0, 4), (4, 8), (8, 10)]
    assert list(runs((3, 1 << 30), 1)) == [(0, 1), (1, 2), (2, 3)]  # a row at least
    assert list(runs(())) == [(0, 1)] and list(runs((0, 4))) == []


@pytest.mark.parametrize("package", [refquant, jaxquant], ids=lambda package: package.__name__)
@pytest.mark.parametrize("grain", GRAINS, ids=str)
def test_codes_scales_and_zero_points_are_those_of_the_whole(package, grain):
    """For each format and shape; a tensor of one run of rows is refquant's own."""
    for text in FORMATS:
        spec = spec_of(text, grain)
        for shape in SHAPES if package is refquant else SHAPES[:4:2]:  # JAX compiles each
            x = values(shape)
            want, reads = refquant.quantize_tensor(x, spec), []

            def read(start, stop, x=x, reads=reads):
                reads.append(stop - start)
                return x[start:stop]

            found = list(
                quantized_runs(package.qtensor, package.scales, read, shape, spec, elements=2 * int(np.prod(shape[1:])))
            )
            if not x.size:
                continue
            assert max(reads) <= max(2, unit(shape, grain)), (text, shape)
            codes = np.concatenate([np.asarray(q.codes) for _, q in found])
            assert codes.tobytes() == want.codes.tobytes(), (text, shape)
            for name in ("scale", "zero_point"):
                parts = [getattr(q, name) for _, q in found]
                if getattr(want, name) is None:
                    assert parts == [None] * len(parts)
                    continue
                parts = [np.asarray(part) for part in parts]
                if spans(shape, grain):
                    assert all(part.tobytes() == getattr(want, name).tobytes() for part in parts), (text, shape, name)
                else:
                    assert np.concatenate(parts).tobytes() == getattr(want, name).tobytes(), (text, shape, name)


@pytest.mark.parametrize("grain", GRAINS, ids=str)
def test_values_are_those_of_the_whole(grain, tmp_path):
    """Of a QTensor, and of its file."""
    for text in FORMATS:
        spec = spec_of(text, grain)
        for shape in SHAPES[:4:2]:
            q = refquant.quantize_tensor(values(shape), spec)
            want = refquant.dequantize_tensor(q)
            held = jaxquant.QTensor(q.codes, q.scale, q.zero_point, spec)
            sides = [rows_of(held)]
            if grain != PerBlock((64, 2)) and grain != PerAxis((0, 1)):
                store.save(tmp_path / "q.safetensors", {"w": held}, overwrite=True)
                sides.append(rows_of(opened(tmp_path / "q.safetensors")["w"]))
            for side in sides:
                parts = [side.read(*run) for run in runs(shape, side.unit, 1)]
                assert (side.shape, side.kind, side.unit) == (shape, spec.fmt.name, unit(shape, grain))
                assert b"".join(part.tobytes() for part in parts) == want.tobytes(), (text, shape)


def test_scalars_and_layers(tmp_path):
    """A scalar is one row; stacked layers are read as one tensor (FIL-8)."""
    spec = spec_of("int4:tensor", PerTensor())
    one = refquant.quantize_tensor(np.float32(0.3), spec)
    one = jaxquant.QTensor(one.codes, one.scale, None, spec)
    layers = [refquant.quantize_tensor(values((6, 4)) * k, spec) for k in (1, 2, 3)]
    stacked = jaxquant.QTensor(*(np.stack([getattr(q, key) for q in layers]) for key in ("codes", "scale")), None, spec)
    store.save(
        tmp_path / "q.safetensors", {"one": one, "layers": stacked, "plain": np.float32(2), "none": values((0, 3))}
    )
    found = opened(tmp_path / "q.safetensors")
    assert rows_of(found["one"]).read(0, 1).tolist() == [float(refquant.dequantize_tensor(one_of(one)))]
    want = np.stack([refquant.dequantize_tensor(q) for q in layers])
    for side in (found["layers"], stacked):
        assert np.concatenate([rows_of(side).read(k, k + 1) for k in range(3)]).tobytes() == want.tobytes()
    told = compare(found, store.load(tmp_path / "q.safetensors"))["tensors"]
    assert [(row["name"], row["equal"]) for row in sorted(told, key=str)] == [
        (name, True) for name in ("layers", "none", "one", "plain")]  # fmt: skip


def one_of(q):
    return refquant.QTensor(np.asarray(q.codes), np.asarray(q.scale), None, q.spec)


def test_codes_outside_the_format_are_refused_when_their_run_is_read(tmp_path, capsys):
    q = jaxquant.quantize_tensor(values((16, 8)), parse_tensor("ternary:channel").spec())
    store.save(tmp_path / "a.safetensors", {"w": q})
    header = read_header(tmp_path / "a.safetensors")
    damaged = bytearray((tmp_path / "a.safetensors").read_bytes())
    damaged[header.data_offset + header.tensor("w.codes").end - 1] = 0xAA  # codes of -2
    (tmp_path / "b.safetensors").write_bytes(damaged)
    rows = opened(tmp_path / "b.safetensors")["w"]
    assert rows.read(0, 8).shape == (8, 8)
    with pytest.raises(UnreadableFile, match="'w' has a code of -2"):
        rows.read(8, 16)
    code = main(["diff", str(tmp_path / "a.safetensors"), str(tmp_path / "b.safetensors")])
    assert (code, "'w' has a code of -2" in capsys.readouterr().err) == (4, True)


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A tensor of 16 runs, 64 MB, with two rows that are not finite, and two quantized copies."""
    folder, random = tmp_path_factory.mktemp("large"), np.random.default_rng(2)
    part = random.normal(size=(1024, 1024)).astype(np.float32)
    with Writer(folder / "m.safetensors", [("w", "F32", (16 * 1024, 1024))], {}) as writer:
        for k in range(16):
            writer.append("w", part * np.float32(1 + k))
    for scheme in ("int4:tensor", "int8:g128:sf16"):
        store.quantize_file(folder / "m.safetensors", folder / scheme, parse(scheme))
    return folder


def peak(*arguments):
    """Bytes that Python and NumPy held at most; what is mapped from a file is not held."""
    tracemalloc.start()
    try:
        code = main([str(a) for a in arguments])
        return code, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("scheme", ["int4:tensor", "int8:channel", "int4:g128:sf16"])
def test_look_holds_one_run(large, scheme, capsys):
    """A float32 of a run has 4 MB; 41 bytes an element of the tensor were 690 MB."""
    code, held = peak("look", large / "m.safetensors", "--errors", scheme)
    assert code == 0 and held < 100 * PIECE, f"{held / MB:.0f} MB"
    assert "w (16384, 1024)" in capsys.readouterr().out


@pytest.mark.parametrize("sides", [("m.safetensors", "int4:tensor"), ("int8:g128:sf16", "int4:tensor")])
def test_diff_holds_one_run(large, sides, capsys, monkeypatch):
    """55 bytes an element of the tensor were 920 MB.  Codes are unpacked by JAX, whose memory is not traced."""
    unpacked, unpack = [], store_read.unpack

    def counted(packed, shape, **options):
        unpacked.append(int(np.prod(shape)))
        return unpack(packed, shape, **options)

    monkeypatch.setattr(store_read, "unpack", counted)
    code, held = peak("diff", *(large / side for side in sides))
    assert code == 1 and held < 100 * PIECE, f"{held / MB:.0f} MB"
    assert max(unpacked) == PIECE


def test_numbers_are_those_of_the_whole(large, capsys):
    """Counts, maxima and the histogram exactly; lengths as far as float64 sums in another order agree."""
    x = np.array(read_tensor(read_header(large / "m.safetensors"), "w"))
    for scheme in ("int4:tensor", "int8:g128:sf16"):
        q = refquant.quantize_tensor(x, parse_tensor(scheme).spec(channel_axis=0, group_axis=1))
        off = x - refquant.dequantize_tensor(q).astype(np.float64)
        want = {"error": pytest.approx(np.linalg.norm(off) / np.linalg.norm(x.astype(np.float64)), rel=1e-9),
                "worst": np.max(np.abs(off)), "not_finite": 0}  # fmt: skip
        main(["look", str(large / "m.safetensors"), "--errors", scheme, "--json"])
        looked = json.loads(capsys.readouterr().out)
        main(["diff", str(large / "m.safetensors"), str(large / scheme), "--json"])
        (row,) = json.loads(capsys.readouterr().out)["tensors"]
        assert {key: looked["errors"][0][key] for key in want} == want == {key: row[key] for key in want}
        assert row["differing"] == np.count_nonzero(off)
        assert looked["worst"] == {"name": "w", "scheme": scheme} | against_grid([(x, q)], q.spec)
