"""refquant.files against random and mutated bytes: only ValueError comes out."""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from refquant import files

F32_12 = {"dtype": "F32", "shape": [3, 4], "data_offsets": [0, 48]}


def make(path: Path, header: object, data: bytes = b"") -> Path:
    """A file with this header (JSON, text or bytes) and these data bytes."""
    text = header if isinstance(header, str | bytes) else json.dumps(header)
    raw = text.encode() if isinstance(text, str) else text
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + data)
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "m.safetensors"


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["F32", "U8", "F4"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)
TENSOR = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(sorted(files.ITEM_BITS)) | JSON,
        "shape": st.lists(st.integers(-1, 5), max_size=3) | JSON,
        "data_offsets": st.tuples(st.integers(-1, 40), st.integers(-1, 40)) | JSON,
    }
)


def only_clean_errors(path: Path) -> None:
    """A header or a ValueError; and a header that is accepted can be read in full."""
    try:
        header = files.read_header(path)
    except ValueError:
        return
    for info in header.tensors:
        assert files.read_tensor(header, info.name).nbytes == info.nbytes


FUZZ = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@FUZZ
@given(
    header=st.dictionaries(st.text(max_size=3) | st.just("__metadata__"), TENSOR | JSON, max_size=3),
    data=st.binary(max_size=40),
)
def test_property_random_headers_only_raise_value_errors(file, header, data):
    only_clean_errors(make(file, header, data))


@FUZZ
@given(data=st.data())
def test_property_mutated_files_only_raise_value_errors(file, data):
    make(
        file,
        {"__metadata__": {"a": "b"}, "x": F32_12, "y": {"dtype": "U8", "shape": [2], "data_offsets": [48, 50]}},
        bytes(50),
    )
    raw = bytearray(file.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(raw) - 1))
        raw[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    file.write_bytes(raw)
    only_clean_errors(file)


@FUZZ
@given(data=st.binary(max_size=60), suffix=st.sampled_from([".json", ".safetensors"]))
def test_property_random_bytes_only_raise_value_errors(tmp_path, data, suffix):
    (tmp_path / f"x{suffix}").write_bytes(data)
    for path in (tmp_path / f"x{suffix}", tmp_path):
        try:
            files.read_headers(path)
        except ValueError as error:
            assert str(tmp_path) in str(error)
