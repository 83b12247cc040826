"""The jaxquant command as a process: interrupts whenever they come, readers who leave."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

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
