"""What store.save writes: tensors and trees that come back with their bits; what no file can tell (FIL-3, FIL-7)."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

jax = pytest.importorskip("jax")
ml_dtypes = pytest.importorskip("ml_dtypes")

import refquant  # noqa: E402
from jaxquant import store  # noqa: E402
from jaxquant.qtensor import quantize_tensor  # noqa: E402
from refquant.conventions import PRESETS  # noqa: E402
from refquant.files import TensorInfo, UnreadableFile, read_header  # noqa: E402
from refquant.files.quantized import plan  # noqa: E402
from refquant.formats import ALL, IntFormat  # noqa: E402
from refquant.schemes import Scheme, TensorScheme, parse_tensor  # noqa: E402

INT4 = ALL["int4"]
REFERENCE = refquant.quantize_tensor(np.ones((2, 2), np.float32), refquant.QuantSpec(INT4, refquant.PerTensor()))

GRAINS = {
    "layer/kernel": ((12, 6), refquant.PerAxis(1)),
    "query/kernel": ((12, 4, 3), refquant.PerAxis((1, 2))),
    "groups/kernel": ((12, 6), refquant.PerGroup(0, 5)),
    "conv/kernel": ((3, 3, 2, 4), refquant.PerAxis(3)),
    "blocks/kernel": ((6, 4), refquant.PerBlock((2, 2))),
    "whole": ((5,), refquant.PerTensor()),
}


@pytest.mark.parametrize("scheme", ["int4:tensor", "uint4:tensor:asym", "int2:tensor:sf16", "nf4:tensor"])
def test_saved_tensors_come_back_with_their_bits(tmp_path, scheme):
    """FIL-2, FIL-3: kernels as Flax lays them out."""
    random = np.random.Generator(np.random.PCG64(2))
    found = {"bias": random.normal(size=6).astype(ml_dtypes.bfloat16), "steps": np.int32(7)}
    for name, (shape, grain) in GRAINS.items():
        spec = refquant.QuantSpec(parse_tensor(scheme).fmt, grain, parse_tensor(scheme).scale)
        found[name] = quantize_tensor(random.normal(size=shape).astype(np.float32), spec)
    size = store.save(tmp_path / "out.safetensors", found, metadata={"of": "a test"})
    assert (tmp_path / "out.safetensors").stat().st_size == size
    assert read_header(tmp_path / "out.safetensors").metadata["of"] == "a test"
    back = store.load(tmp_path / "out.safetensors")
    assert back.keys() == found.keys()
    for name, value in found.items():
        assert jax.tree.structure(value) == jax.tree.structure(back[name]), name
        for a, b in zip(jax.tree.leaves(value), jax.tree.leaves(back[name]), strict=True):
            assert np.asarray(a).dtype == b.dtype and np.asarray(a).tobytes() == b.tobytes(), name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"spec": refquant.QuantSpec(parse_tensor("int4").fmt, refquant.PerToken())}, "need scales per tensor"),
        (
            {"spec": refquant.QuantSpec(parse_tensor("int4").fmt, convention=PRESETS["torch_fake_tensor"].affine)},
            "convention",
        ),
        ({"spec": parse_tensor("int4:tensor:sf16").spec(), "scale": np.float32(0.1)}, "not a float16 number"),
        (
            {"spec": refquant.QuantSpec(INT4, refquant.PerAxis(2))},
            "save: 'w' has a spec of another rank: PerAxis.axis=2",
        ),
    ],
)
def test_what_a_file_cannot_tell_is_refused(tmp_path, change, message):
    """FIL-3."""
    q = quantize_tensor(np.ones((2, 2), np.float32), refquant.QuantSpec(parse_tensor("int4").fmt))
    with pytest.raises(ValueError, match=message):
        store.save(tmp_path / "out.safetensors", {"w": dataclasses.replace(q, **change)})
    with pytest.raises(TypeError, match="complex64"):
        store.save(tmp_path / "out.safetensors", {"w": np.zeros(2, np.complex64)})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("scheme", "change", "error", "message"),
    [
        ("uint4:tensor:asym", {"zero_point": None}, ValueError, "'w' has no zero point, need one: its scale rule has"),
        ("int4:tensor", {"zero_point": np.int32(0)}, ValueError, "'w' has a zero point, need none: its scale rule"),
        ("uint4:tensor:asym", {"zero_point": np.int32(16)}, ValueError, r"'w' has a zero point of 16, need 0\.\.15"),
        ("uint8:tensor:asym", {"zero_point": np.int32(-1)}, ValueError, r"'w' has a zero point of -1, need 0\.\.255"),
        ("uint4:tensor:asym", {"zero_point": np.int32([1])}, ValueError, r"zero point of 'w' has shape \(1,\), need"),
        (
            "uint4:tensor:asym",
            {"zero_point": np.float32(1)},
            TypeError,
            "zero point of .w. has dtype float32, need",
        ),
        (
            "int4:tensor",
            {"codes": np.full((2, 2), 8, np.int8)},
            ValueError,
            r"'w' has a code of 8, need -8\.\.7",
        ),
        ("nf4:tensor", {"codes": np.full((2, 2), 16, np.uint8)}, ValueError, r"'w' has a code of 16, need 0\.\.15"),
        ("int4:tensor", {"codes": np.ones((2, 2), np.int16)}, TypeError, "codes of 'w' have dtype int16, need int8"),
        ("int4:tensor", {"scale": np.ones(3, np.float32)}, ValueError, r"the scale of 'w' has shape \(3,\), need \(\)"),
        ("int4:tensor", {"scale": np.ones(())}, TypeError, "the scale of 'w' has dtype float64, need float32"),
        ("int4:tensor", {"scale": 1.0}, TypeError, "the scale of 'w' is a float, need an array"),
        ("int4:tensor", {"codes": [[1, 2], [3, 4]]}, TypeError, "the codes of 'w' is a list, need an array"),
        (
            "int4:tensor",
            {"codes": jax.ShapeDtypeStruct((2, 2), np.int8)},
            TypeError,
            "the codes of 'w' is a ShapeDtypeStruct, need an array",
        ),
        ("uint4:tensor:asym", {"zero_point": 0}, TypeError, "the zero point of 'w' is a int, need an array"),
    ],
)
def test_what_would_come_back_otherwise_is_refused(tmp_path, scheme, change, error, message):
    """FIL-7."""
    q = quantize_tensor(np.arange(4, dtype=np.float32).reshape(2, 2), parse_tensor(scheme).spec())
    with pytest.raises(error, match="save: .*" + message):
        store.save(tmp_path / "out.safetensors", {"w": dataclasses.replace(q, **change)})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({1: "a"}, "save: metadata has 1: 'a', need text to text"),
        ({"a": 1}, "save: metadata has 'a': 1, need text to text"),
        ([("a", "b")], "save: metadata is a list, need a dict of texts"),
    ],
)
def test_metadata_that_is_no_text_is_refused(tmp_path, metadata, message):
    with pytest.raises(TypeError, match=message):
        store.save(tmp_path / "out.safetensors", {"w": np.ones(2, np.float32)}, metadata=metadata)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("scheme", "part", "message"),
    [
        ("int4_narrow:tensor", "codes", r"'w' has a code of -8, need -7\.\.7"),
        ("int4:tensor:asym", "zero_point", r"'w' has a zero point of 8, need -8\.\.7"),
    ],
)
def test_a_file_with_codes_that_its_format_lacks_is_refused(tmp_path, scheme, part, message):
    """FIL-7."""
    path = tmp_path / "w.safetensors"
    store.save(path, {"w": quantize_tensor(np.ones((2, 2), np.float32), parse_tensor(scheme).spec())})
    header = read_header(path)
    damaged = bytearray(path.read_bytes())
    damaged[header.data_offset + header.by_name[f"w.{part}"].start] = 0x08
    path.write_bytes(damaged)
    with pytest.raises(UnreadableFile, match=message):
        store.load(path)


@pytest.mark.parametrize(
    "fmt",
    [
        IntFormat("mine", 5, -10, 10, source="a test"),
        IntFormat("int8:channel", 8, -128, 127, source="a test"),
        dataclasses.replace(INT4, qmin=-7, qmax=6),
        dataclasses.replace(ALL["e4m3fn"], ties="away"),
        dataclasses.replace(ALL["nf4"], values=tuple(2 * value for value in ALL["nf4"].values)),
    ],
    ids=["own", "colon", "range", "ties", "values"],
)
def test_a_format_that_a_file_does_not_tell_is_refused(tmp_path, fmt):
    """FIL-7: it would come back as the format that has its name, or not at all; of a source likewise."""
    q = quantize_tensor(np.ones((2, 2), np.float32), refquant.QuantSpec(fmt))
    with pytest.raises(
        ValueError, match=f"plan_of: 'a/w' has a format '{fmt.name}' of its own, need one as formats.ALL"
    ):
        store.save(tmp_path / "out.safetensors", {"a": {"w": q}})
    with pytest.raises(ValueError, match=f"plan: 'w' has a format '{fmt.name}' of its own, need one as formats.ALL"):
        plan([TensorInfo("w", "F32", (2, 2), 0, 16)], Scheme(TensorScheme(fmt)))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("block", [(2,), (2, 2, 2)])
def test_blocks_that_a_file_does_not_tell_are_refused(tmp_path, block):
    """FIL-7: a scheme has blocks of two axes."""
    q = quantize_tensor(np.ones((4, 4, 4), np.float32), refquant.QuantSpec(INT4, refquant.PerBlock(block)))
    with pytest.raises(ValueError, match="plan_of: 'w' has .*, need scales per tensor, channel, group or block of two"):
        store.save(tmp_path / "out.safetensors", {"w": q})
    grain = str(refquant.PerBlock(block))
    with pytest.raises(ValueError, match=f"plan: weights have grain '{grain}', need tensor, channel, gN or bRxC"):
        plan([TensorInfo("w", "F32", (4, 4), 0, 64)], Scheme(TensorScheme(INT4, grain)))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "granularity",
    [
        refquant.PerAxis(np.int64(1)),
        refquant.PerAxis((np.int32(0), np.uint8(1))),
        refquant.PerGroup(np.int64(-1), np.int64(2)),
        refquant.PerBlock((np.int64(2), 2)),
    ],
    ids=str,
)
def test_integers_of_numpy_are_saved(tmp_path, granularity):
    """FIL-3: axes and sizes are Python's integers from the start."""
    q = quantize_tensor(np.ones((2, 4), np.float32), refquant.QuantSpec(INT4, granularity))
    store.save(tmp_path / "w.safetensors", {"w": q})
    back = store.load(tmp_path / "w.safetensors")["w"]
    assert repr(back.spec) == repr(q.spec) and "int64" not in repr(q.spec)


def test_a_tree_is_saved_under_its_paths(tmp_path):
    """Nested mappings, whole numbers as keys; an empty branch is nothing; a path may be written out."""
    flax = pytest.importorskip("flax.core")
    q = quantize_tensor(np.ones((2, 2), np.float32), refquant.QuantSpec(parse_tensor("int4").fmt))
    leaf = np.arange(3, dtype=np.float32)
    tree = {"layers": {0: {"kernel": q}, 1: {"bias": leaf}}, "bn": {"a/mean": leaf, "none": {}}, "steps": np.int32(7)}
    flat = {"layers/0/kernel": q, "layers/1/bias": leaf, "bn/a/mean": leaf, "steps": np.int32(7)}
    for name, given in (("tree", tree), ("frozen", flax.freeze(tree)), ("flat", flat)):
        store.save(tmp_path / name, given)
    assert set(store.load(tmp_path / "tree")) == set(flat)
    assert (tmp_path / "tree").read_bytes() == (tmp_path / "flat").read_bytes() == (tmp_path / "frozen").read_bytes()


@pytest.mark.parametrize(
    ("tree", "error", "message"),
    [
        ({"a/b": np.ones(1), "a": {"b": np.ones(2)}}, ValueError, "save: two tensors have the name 'a/b', need one"),
        ({"a": {1: np.ones(1), "1": np.ones(2)}}, ValueError, "save: two tensors have the name 'a/1', need one"),
        ({"drop": {"key": jax.random.key(0)}}, TypeError, "save: 'drop/key' is a random key, need arrays and QTensors"),
        ({"w": REFERENCE}, TypeError, r"'w' is a refquant.QTensor, need jaxquant.QTensor\(q.codes, q.scale, q.zero"),
        ({"a": {"b": None}}, TypeError, "save: 'a/b' is a NoneType, need an array or a QTensor"),
        ({"a": {"b": [1, np.ones(2)]}}, TypeError, "save: 'a/b' is a list, need an array or a QTensor"),
        ({"a": jax.ShapeDtypeStruct((2,), np.float32)}, TypeError, "save: 'a' is a ShapeDtypeStruct, need an array"),
        (np.ones(2), TypeError, "save: tensors is a ndarray, need a dict of arrays and QTensors"),
    ],
)
def test_a_tree_that_is_no_file_is_refused(tmp_path, tree, error, message):
    """FIL-6: with the name of the tensor; nothing is written."""
    with pytest.raises(error, match=message):
        store.save(tmp_path / "out.safetensors", tree)
    assert not list(tmp_path.iterdir())
