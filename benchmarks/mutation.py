"""Mutation run of refquant: small changes to its code, one at a time, each of which some test must see.

  make mutation                                     every module; interrupt it and run it again to go on
  python benchmarks/mutation.py --module affine --module bits --jobs 2
  python benchmarks/mutation.py --again             try the survivors again: a test was added
  python benchmarks/mutation.py --report            only count what is known, and write the results

Needs a virtual environment with Cosmic Ray and without JAX: the tests are those of the NumPy-only lane.  What is
known is kept in .mutants/.  Results, the share of a module's mutants that was tried, and why each survivor may live:
benchmarks/results/mutation.json; a reason is written there by hand and stays through later runs while the line and the
change are the same.  Not in the list: cli, files, layer_checks, sum_checks, kinds, options, formats._valid,
formats.names.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections import Counter
from importlib.metadata import version

import trials
from mutants import KNOWN, ROOT, Mutant, mutants
from trials import Children, Outcome

RESULTS = ROOT / "benchmarks" / "results" / "mutation.json"
GOAL = 0.90
DATA = "formats vectors conventions codec errors schemes"
#: test files for the mutants of what an import runs (those of functions have the whole session's): modules
GROUPS = {
    "vectors refquant_smoke rounding codec packing affine scales requantize": (
        "affine affine_steps arguments bits blocks checks codec contractions floats fused packing qtensor requantize "
        "rounding scales sums thresholds windows"
    ),
    "schemes errors qtensor vectors refquant_smoke affine layers": "granularity schemes spec",
    DATA: "formats.codebooks formats._dynamic formats.integers formats.minifloats",
    f"{DATA} affine requantize thresholds": "conventions.affine conventions.rescale conventions.steps",
    f"{DATA} thresholds": "conventions.presets conventions.casts conventions.dequant",
    "vectors errors estimators calibration layers layers_exact": (
        "estimators calibration.ema calibration.entropy calibration.histogram calibration.linear calibration.minmax "
        "calibration.mse calibration.percentile qat._tiles qat.bias qat.conv qat.dot qat.einsum qat.embedding "
        "qat.folding qat.integer qat.layer qat.learned qat.lsq qat.lsq_plus qat.pact qat.stochastic qat.trained"
    ),
}
MODULES = {module: tests for tests, modules in GROUPS.items() for module in modules.split()}


class Records:
    """The outcomes, a line each: the last one of a mutant counts."""

    def __init__(self):
        KNOWN.mkdir(exist_ok=True)
        self.path = KNOWN / "outcomes.jsonl"
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        self.found = {line["digest"]: line for line in map(json.loads, lines)}

    def add(self, mutant: Mutant, outcome: Outcome) -> None:
        line = {"digest": mutant.digest, "module": mutant.module, "outcome": outcome.word, "by": outcome.by}
        self.found[mutant.digest] = line
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        if outcome.word == "survived":
            told = mutant.told()
            print(f"{mutant.module}:{told['line']}: {told['was']}\n    -> {told['became']}", flush=True)

    def word(self, mutant: Mutant) -> str:
        return self.found.get(mutant.digest, {}).get("outcome", "")

    def kills(self) -> Counter:
        return Counter(line["by"] for line in self.found.values())


def swap_trials(queue: list[Mutant], jobs: int) -> None:
    """Those that change a function, in a process of their own, so that this one has not imported refquant."""
    process = os.fork()
    if process == 0:
        records = Records()
        trials.run_session(queue, Children(jobs, records.add), records.kills())
        os._exit(0)
    os.waitpid(process, 0)


def import_trials(queue: list[Mutant], jobs: int) -> None:
    """Those that change what an import runs."""
    records = Records()
    children = Children(jobs, records.add)
    for mutant in queue:
        tests = trials.files(MODULES[mutant.module])
        children.start(mutant, lambda m=mutant, t=tests: trials.fresh(m, t), 120)
    children.drain()


def run(names: list[str], share: float, jobs: int, again: bool) -> None:
    """Try every mutant that is not settled."""
    open_words = ("", "survived") if again else ("",)
    records = Records()
    queue = [m for name in names for m in sample(name, share) if records.word(m) in open_words]
    queue.sort(key=lambda mutant: mutant.digest)  # what is done when it is interrupted is a fair sample
    print(f"{len(queue)} mutants to try", flush=True)
    if queue:
        swap_trials(queue, jobs)
    records = Records()
    import_trials([m for name in names for m in sample(name, share) if records.word(m) == "import"], jobs)


def sample(name: str, share: float) -> list[Mutant]:
    """The mutants of a module, or a share of them that their texts decide."""
    return [m for m in mutants(name) if int(m.digest, 16) < share * 16**16]


def survivors(found: list[Mutant], reasons: dict[tuple[str, str, str], str]) -> list[dict]:
    """With the reason that the results had for them; one row a line of code and reason."""
    rows: dict[tuple[str, str, str], dict] = {}
    for mutant in found:
        told = mutant.told()
        why = reasons.get((mutant.module, told["was"], told["became"]), "")
        row = {"module": mutant.module, "line": told["line"], "was": told["was"], "became": [], "why": why}
        rows.setdefault((mutant.module, told["was"], why), row)["became"].append(told["became"])
    return list(rows.values())


def report(names: list[str], share: float) -> dict:
    """Counts and survivors of the mutants that these modules have today; of the other modules what was recorded."""
    before = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"modules": {}, "survivors": []}
    reasons = {(r["module"], r["was"], became): r["why"] for r in before["survivors"] for became in r["became"]}
    counts = {name: count for name, count in before["modules"].items() if name not in names}
    left, records = [row for row in before["survivors"] if row["module"] not in names], Records()
    for name in names:
        found = {m: records.word(m) for m in sample(name, share)}
        words = Counter(found.values())
        tried = {word: words[word] for word in ("killed", "timeout", "survived")}
        untried = len(found) - sum(tried.values())
        counts[name] = {"share": share, "mutants": sum(tried.values()), **tried, "untried": untried}
        left += survivors([m for m, word in found.items() if word == "survived"], reasons)
    total = {word: sum(c[word] for c in counts.values()) for word in next(iter(counts.values())) if word != "share"}
    return {
        "tool": f"cosmic-ray {version('cosmic-ray')}",
        "python": platform.python_version(),
        "numpy": version("numpy"),
        **total,
        "killed share": round(1 - total["survived"] / max(1, total["mutants"]), 4),
        "modules": counts,
        "survivors": left,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--module", action="append", choices=MODULES, help="only this one; may be repeated")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--share", type=float, default=1.0, help="try this share of the mutants (the same ones always)")
    parser.add_argument("--again", action="store_true", help="try survivors again")
    parser.add_argument("--report", action="store_true", help="try nothing")
    options = parser.parse_args()
    trials.prepare()
    names = options.module or list(MODULES)
    if not options.report:
        run(names, options.share, options.jobs, options.again)
    found = report(names, options.share)
    for name, count in found["modules"].items():
        tried = f"{100 * count['share']:3.0f} % tried: {count['mutants']:5} mutants"
        print(f"{name:<24} {tried}, {count['survived']:4} survived")
    unexplained = [row for row in found["survivors"] if not row["why"]]
    print(
        f"{found['mutants']} mutants, {100 * found['killed share']:.1f} % killed; "
        f"without a reason: {len(unexplained)}; untried: {found['untried']}"
    )
    RESULTS.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    return 0 if found["killed share"] >= GOAL and not unexplained else 1


if __name__ == "__main__":
    sys.exit(main())
