"""decide's output folder: whole or absent, whatever ends the run, and never another run's."""

from __future__ import annotations

import os
import signal

import pytest

pytest.importorskip("jax")
pytest.importorskip("flax.nnx")
pytest.importorskip("rich")

import small_models  # noqa: E402

import jaxquant  # noqa: E402
from jaxquant.decide import interrupts, outputs  # noqa: E402
from jaxquant.decide.outputs import filled_whole  # noqa: E402

NAMES = ["model.safetensors", "report.html", "result.json"]


@pytest.fixture(autouse=True)
def listening():
    """Ctrl-C raises here too where the tests run in the background of a shell, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(params=["new/out", "there"])
def out(request, tmp_path):
    (tmp_path / "there").mkdir()
    return tmp_path / request.param


def listing(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def fill(place):
    for name in NAMES:
        (place / name).write_text(name)


def test_a_full_disk_leaves_nothing(out, tmp_path):
    """The last file, the report, is larger than the limit; the message says the truth."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(OSError, match=r"File too large; nothing was written: .*report\.html"):
            jaxquant.decide(small_models.build_linen(), small_models.vectors(), schemes="int8:channel", out=out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert listing(tmp_path) == ["there"]
    result = jaxquant.decide(small_models.build_linen(), small_models.vectors(), schemes="int8:channel", out=out)
    assert (listing(out), result["folder"]) == (NAMES, str(out.resolve()))


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError, ValueError])
@pytest.mark.parametrize("count", [0, 1, 3])
def test_an_error_in_the_block_leaves_nothing(out, tmp_path, error, count):
    with pytest.raises(error), filled_whole(out) as place:
        for name in NAMES[:count]:
            (place / name).write_text("")
        raise error
    assert listing(tmp_path) == ["there"]


@pytest.mark.parametrize("at", range(3))
@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_an_error_between_two_moves_leaves_nothing_and_ctrl_c_all(out, tmp_path, monkeypatch, at, error):
    moves, rename = [], outputs.Path.rename

    def move(path, target):
        if len(moves) == at:
            if error is OSError:
                raise OSError("planted")
            signal.raise_signal(signal.SIGINT)
        moves.append(target)
        return rename(path, target)

    monkeypatch.setattr(outputs.Path, "rename", move)
    with pytest.raises(error), filled_whole(out) as place:
        fill(place)
    if error is KeyboardInterrupt:
        assert listing(out) == NAMES
    else:
        assert listing(tmp_path) == ["there"]


def test_two_runs_at_once_have_a_folder_each(out):
    """Whichever of them has claimed a folder first, before it has written anything, and if it fails."""
    with filled_whole(out) as first:
        with filled_whole(out) as second:
            fill(second)
        with pytest.raises(ValueError), filled_whole(out):
            raise ValueError
        fill(first)
    assert (first.parent, second.parent) == (out, out.with_name(f"{out.name}-2"))
    assert listing(out) == listing(second.parent) == NAMES
    assert not os.path.lexists(out.with_name(f"{out.name}-3"))


def test_what_a_killed_run_left_is_named(out):
    """`ls` shows an empty folder."""
    place = out / outputs.UNFINISHED
    place.mkdir(parents=True)
    with pytest.raises(ValueError, match=r"holds \.unfinished alone, which a run that was killed left there, need"):
        outputs.output_folder(out)
    (out / "mine").write_text("")
    with pytest.raises(ValueError, match="exists, need a new or empty folder"):
        outputs.output_folder(out)


def test_held_back_ctrl_c_acts_when_the_block_has_ended():
    done = []
    with pytest.raises(KeyboardInterrupt), interrupts.held_back():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        done.append(1)
    assert done and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with interrupts.held_back():
        pass
