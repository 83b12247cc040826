"""The generated parts of README.md, from the recorded runs in benchmarks/results/.

python benchmarks/readme.py write                          README.md anew
python benchmarks/readme.py check                          exit code 1 where it is stale (a test runs this)
python benchmarks/readme.py record jaxquant-decide/result.json    a fresh run of `jaxquant decide` becomes the record
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from refquant.files import atomic_path  # noqa: E402

README = HERE.parent / "README.md"
RESULTS = HERE / "results"
KEPT = ("version", "model", "workload", "bar", "rows", "bits", "decision", "speed", "saved", "source", "provenance")
COMMAND = "python benchmarks/readme.py write"


def ladder() -> str:
    """The first screen: what `make demo` printed, from its recorded result."""
    from jaxquant.decide.console import HEAD, row_text

    found = json.loads((RESULTS / "decide.json").read_text())
    lines = ["$ make demo", HEAD]
    lines += [f"{row_text(_namespace(row))}  {_verdict(row)}".rstrip() for row in found["rows"]]
    bits = found["bits"]
    lines += ["", *_folded("DECISION  " + found["decision"]["sentence"]), ""]
    lines.append(
        f"NumPy and JAX compared on all {bits['compared']:,} codes, scales and zero points: {bits['differing']} differ"
    )
    lines += _folded(found["speed"]["sentence"])
    versions = found["provenance"]["versions"]
    about = f"(n = {found['workload']['n']}, {found['workload']['metric']}; {found['provenance']['cores']} cores, "
    return "\n".join(["```text", *lines, about + f"JAX {versions['jax']}, {found['provenance']['made'][:10]})", "```"])


def _verdict(row: dict) -> str:
    return row["verdict"]["result"] if row["verdict"] else ""


def _namespace(value: object) -> object:
    return SimpleNamespace(**{k: _namespace(v) for k, v in value.items()}) if isinstance(value, dict) else value


def _folded(text: str, width: int = 112) -> list[str]:
    import textwrap

    return textwrap.wrap(text, width, subsequent_indent="          " if text.startswith("DECISION") else "")


def exhaustive() -> str:
    """One line a kind of job: inputs and differences."""
    path = RESULTS / "exhaustive.json"
    jobs = json.loads(path.read_text()) if path.exists() else {}
    whole = {name: job for name, job in jobs.items() if job["inputs"] == 2**32}
    inputs = sum(job["inputs"] for job in whole.values())
    wrong = sum(job["refquant"] + job["jaxquant"] for job in whole.values())
    encode = sum(name.startswith("encode") for name in whole)
    return (
        f"All 2^32 float32 inputs have been compared between refquant, jaxquant and the third opinion for {encode} "
        f"`encode` and {len(whole) - encode} `quantize` jobs: {inputs:,} inputs, **{wrong} differences** "
        "(`python benchmarks/exhaustive.py`, recorded in `benchmarks/results/exhaustive.json`)."
    )


def elementwise() -> str:
    """The speed table."""
    found = json.loads((RESULTS / "elementwise.json").read_text())
    lines = ["| operation, 4096 x 4096 float32 | share of the speed of the cheapest jitted operation |", "|---|---|"]
    lines += [f"| {row['what']} | {100 * row['speed']:.0f} % of {row['against']} |" for row in found["ours"]]
    lines += ["", "| peer in the same run | its time over ours |", "|---|---|"]
    lines += [f"| {row['peer']} | {row['peer_over_ours']:.2f} ({row['ours']}) |" for row in found["peers"]]
    return "\n".join([*lines, "", f"({found['device']}, JAX {found['jax']}; `python benchmarks/elementwise.py`)"])


PARTS = {"ladder": ladder, "exhaustive": exhaustive, "elementwise": elementwise}


def rendered(text: str) -> str:
    """README with every generated part anew."""
    for name, part in PARTS.items():
        pattern = re.compile(f"(<!-- {name} -->\n).*?(\n<!-- /{name} -->)", re.DOTALL)
        text = pattern.sub(lambda found, part=part: found.group(1) + part() + found.group(2), text)
    return text


def record(path: Path) -> None:
    """Keeps the parts of a result that the README and its test need."""
    found = json.loads(path.read_text())
    for name in ("path",):
        found["model"].pop(name, None)
    kept = {name: found[name] for name in KEPT if name in found}
    with atomic_path(RESULTS / "decide.json", overwrite=True) as temporary:
        temporary.write_text(json.dumps(kept, indent=1) + "\n")


def main(arguments: list[str]) -> int:
    if arguments[:1] == ["record"] and len(arguments) == 2:
        record(Path(arguments[1]))
        arguments = ["write"]
    if arguments not in (["write"], ["check"]):
        print(__doc__, file=sys.stderr)
        return 2
    old = README.read_text(encoding="utf-8")
    new = rendered(old)
    if arguments == ["check"]:
        if old != new:
            print(f"README.md is stale; run: {COMMAND}", file=sys.stderr)
        return int(old != new)
    with atomic_path(README, overwrite=True) as temporary:
        temporary.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
