"""The command `refquant` as a process of its own: encodings, colour, a closed pipe, what it imports (CMD-4)."""

import os
import shlex
import subprocess
import sys

import pytest

from refquant.cli import main


def process(*words, **env):
    base = {
        k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR", "PYTHONIOENCODING", "PYTHONUTF8")
    }
    command = [sys.executable, "-X", "utf8=0", "-m", "refquant", *words]
    return subprocess.run(command, capture_output=True, env=base | {"COLUMNS": "80"} | env, check=False)


def test_without_unicode_golden_is_ascii():
    for words in (("show", "e5m2"), ("encode", "0.3", "--fmt", "e4m3fn"), ("show", "aqt")):
        done = process(*words, PYTHONIOENCODING="ascii")
        assert done.returncode == 0 and done.stdout.isascii() and b"?" not in done.stdout, done.stderr
    assert not process("show", "nf4", PYTHONIOENCODING="utf-8").stdout.isascii()


def test_colour_golden_only_where_wanted():
    assert b"\033[" in process("show", "e2m1fn", FORCE_COLOR="1").stdout
    assert b"\033[" not in process("show", "e2m1fn", FORCE_COLOR="1", NO_COLOR="1").stdout
    assert b"\033[" not in process("show", "e2m1fn").stdout


def test_broken_pipe_golden_is_quiet():
    command = f"{shlex.quote(sys.executable)} -m refquant show float16 --all | head -n 1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, check=False)
    assert done.returncode == 0 and done.stderr == b"" and done.stdout.count(b"\n") == 1


def test_command_imports_numpy_and_the_standard_library_alone():
    code = "import sys; from refquant.cli import main; main(['encode', '0.3', '--fmt', 'int8'])"
    code += "; print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    loaded = {name.partition(".")[0] for name in done.stderr.split()}
    assert not loaded & {"rich", "typer", "click", "jax", "jaxquant", "ml_dtypes"} and "numpy" in loaded


def test_errors_golden_show_control_characters(capsys):
    """CMD-2: one line, and no name steers the terminal."""
    assert main(["vectors", "check", "a\x1b[31mRED\nb"]) == 4
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "a\\x1b[31mRED\\nb: No such file" in err


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
@pytest.mark.parametrize("words", ["--help", "show int4", "show float16 --all"])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_standard_output_golden_is_named(words, unbuffered):
    """CMD-2: what fits into the buffer fails at the end, more of it in the middle."""
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "refquant", *words.split()]
        env = os.environ | {"PYTHONUNBUFFERED": unbuffered}
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, env=env, check=False)
    told = "refquant: standard output cannot be written (No space left on device), need room for it or another place\n"
    assert (done.returncode, done.stderr) == (4, told)
