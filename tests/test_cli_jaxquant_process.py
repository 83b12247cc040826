"""The jaxquant command as a process: interrupts whenever they come, readers who leave."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("jax")
pytest.importorskip("typer")
pytest.importorskip("flax.nnx")

HERE = Path(__file__).resolve().parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE.parent), str(HERE)])}


SLOW = """
import jax, jax.numpy as jnp
def build():
    step = jax.jit(lambda x: jnp.tanh(x @ x))
    x = step(jnp.ones((512, 512)))
    open("computing", "w").close()
    for _ in range(10**6):
        x = step(x)
    return x
def examples():
    return []
"""


#: A suite that runs in the background has its children ignore Ctrl-C.
LISTENING = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from jaxquant.cli import script
sys.exit(script())
"""


def test_ctrl_c_while_the_users_model_trains_is_one_line_and_130(tmp_path):
    """Compiled work goes on in other threads: a process that was torn down beneath it crashed (status -11)."""
    (tmp_path / "slow.py").write_text(SLOW)
    command = [sys.executable, "-c", LISTENING, "decide", "slow:build", "--on", "slow:examples"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT) as process:
        try:
            while not (tmp_path / "computing").exists():
                assert process.poll() is None
                time.sleep(0.05)
            time.sleep(0.3)
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert (process.returncode, len(err.strip().splitlines()), "interrupted" in err) == (130, 1, True)


def test_a_reader_who_leaves_costs_no_result(tmp_path):
    """`jaxquant decide | head -1`: the files are written, and the exit code is the verdict's."""
    words = ["decide", "small_models:build_linen", "--on", "small_models:vectors", "--scheme", "int8:channel"]
    command = [sys.executable, "-u", "-m", "jaxquant", *words, "--out", str(tmp_path / "out")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=ENVIRONMENT) as process:
        assert process.stdout.readline()
        process.stdout.close()
        code = process.wait(timeout=300)
    made = json.loads((tmp_path / "out" / "result.json").read_text())
    assert code == made["decision"]["exit_code"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    from jaxquant import store

    path = tmp_path_factory.mktemp("weights") / "m.safetensors"
    store.save(path, {"a.weight": np.ones((8, 64), np.float32)})
    return path


#: SIGINT in the middle of an import of the command, at a collection of garbage after it, before all and after all.
MOMENTS = {
    "an import": "import_ = __import__\ndef planted(name, *rest):\n"
    "    if name == 'jax.numpy' and not done: done.append(1), signal.raise_signal(signal.SIGINT)\n"
    "    return import_(name, *rest)\nbuiltins.__import__ = planted",
    "a swallowed import": "import_ = __import__\ndef planted(name, *rest):\n"
    "    if name == 'jax.numpy' and not done:\n"
    "        try: done.append(1), signal.raise_signal(signal.SIGINT)\n"
    "        except BaseException: pass\n"
    "    return import_(name, *rest)\nbuiltins.__import__ = planted",
    "a collection": "def planted(phase, _):\n"
    "    listening = signal.getsignal(signal.SIGINT) is signal.default_int_handler\n"
    "    if 'jaxquant.store' in sys.modules and listening and not done:\n"
    "        done.append(1), signal.raise_signal(signal.SIGINT)\n"
    "gc.callbacks.append(planted)",
    "typer's": "import typer.core\nwas = typer.core.TyperGroup.make_context\n"
    "def planted(*a, **k): signal.raise_signal(signal.SIGINT)\ntyper.core.TyperGroup.make_context = planted",
}
PLANTED = "import builtins, gc, signal, sys\ndone = []\n"


@pytest.mark.parametrize("moment", MOMENTS)
def test_ctrl_c_at_any_moment_is_one_line_and_130(weights, tmp_path, moment):
    """JAX has a callback at each collection of garbage, which loses an exception, and crashes at one in its imports."""
    words = ["quantize", str(weights), str(tmp_path / "o.safetensors")]
    command = [sys.executable, "-c", PLANTED + MOMENTS[moment] + LISTENING, *words]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=300, check=False)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (130, "", 1), done.stderr
    assert done.stderr.startswith("jaxquant: interrupted")


def test_ctrl_c_after_all_is_done_changes_nothing(weights, tmp_path):
    """Tearing JAX down takes a while; the result is whole and told."""
    late = (
        "import atexit, signal, time\natexit.register(lambda: (signal.raise_signal(signal.SIGINT), print('went on')))\n"
    )
    words = ["quantize", str(weights), str(tmp_path / "o.safetensors")]
    command = [sys.executable, "-c", late + LISTENING, *words]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=300, check=False)
    assert (done.returncode, done.stderr, len(done.stdout.splitlines())) == (0, "", 2)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
@pytest.mark.parametrize("words", ["--help", "look FILE --json", "quantize FILE OUT", "diff FILE FILE"])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_standard_output_is_named(weights, tmp_path, words, unbuffered):
    words = [{"FILE": str(weights), "OUT": str(tmp_path / "o.safetensors")}.get(word, word) for word in words.split()]
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "jaxquant", *words], stdout=full, stderr=subprocess.PIPE, text=True,
            env=ENVIRONMENT | {"PYTHONUNBUFFERED": unbuffered}, timeout=300, check=False,
        )  # fmt: skip
    told = "jaxquant: standard output cannot be written (No space left on device), need room for it or another place\n"
    assert (done.returncode, done.stderr) == (4, told)
