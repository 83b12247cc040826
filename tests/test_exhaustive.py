"""The sample of benchmarks/exhaustive.py that .ci/run takes: it sees a code that is wrong for one input a step."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("jax")
ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("name", ["encode:nf4", "encode:int4", "quantize:int8:0x3dcccccd"])
def test_sample_planted_one_input_beside_each_step(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import exhaustive

    job = next(job for job in exhaustive.jobs() if job.name == name)
    right = exhaustive.run_job(job, {}, None, 64)
    assert (right["refquant"], right["jaxquant"], right["first"]) == (0, 0, None)
    late = dataclasses.replace(job, reference=lambda x: job.reference(np.nextafter(x, np.float32(-np.inf))))
    wrong = exhaustive.run_job(late, {}, None, 64)
    assert wrong["refquant"] > 5 and wrong["jaxquant"] == 0 and wrong["first"]


def test_sample_is_what_ci_runs() -> None:
    assert "python benchmarks/exhaustive.py --sample 64\n" in (ROOT / ".ci" / "run").read_text()
