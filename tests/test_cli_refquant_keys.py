"""What `encode --convention KEY=VALUE` says of keys is what it does."""

from __future__ import annotations

import re

import pytest
from cli_support import runner

VALUES = {"op": "inv", "prec": "f64", "zero": None, "ties": "away", "overflow": None, "nan": None}


@pytest.fixture
def run(capsys, monkeypatch):
    return runner(capsys, monkeypatch)


@pytest.mark.parametrize("scale", ["", " --scale 0.25"])
@pytest.mark.parametrize("fmt", ["int8", "uint4", "e4m3fn", "nf4"])
def test_the_keys_named_are_those_that_have_a_meaning(run, fmt, scale):
    """`foo=inv` was answered with the keys of a cast, where `op=inv` is one of quantize's."""
    line = f"encode 0.3 --fmt {fmt}{scale} --convention "
    code, _, err = run(line + "foo=inv")
    named = re.search(r"there is no 'foo' for \w+, need one of ([\w, ]+)", err)[1].strip().split(", ")
    assert code == 2 and ("(more with --scale)" in err) == (not scale)
    for key in VALUES:
        code, _, err = run(f"{line}{key}=none_such")
        assert (key in named) == bool(re.search(f"{key} is 'none_such', need one of ", err)), (key, err)
    assert [run(f"{line}{key}={value}")[0] for key, value in VALUES.items() if value and key in named].count(2) == 0
