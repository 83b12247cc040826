"""The generated parts of README.md and docs/qat.md, from the recorded runs in benchmarks/results/.

python benchmarks/readme.py write                          both pages anew
python benchmarks/readme.py check                          exit code 1 where one is stale (a test runs this)
python benchmarks/readme.py record jaxquant-decide/result.json    a fresh run of `jaxquant decide` becomes the record
python benchmarks/readme.py examples                       runs the examples of docs/qat.md, some minutes: the record
"""

from __future__ import annotations

import json
import re
import statistics
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from types import SimpleNamespace

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from refquant.files import atomic_path, sha256_file  # noqa: E402

PAGES = (HERE.parent / "README.md", HERE.parent / "docs" / "qat.md")
RESULTS = HERE / "results"
KEPT = (
    "version", "model", "workload", "bar", "rows", "bits", "cancelled", "decision", "speed", "saved", "source",
    "provenance",
)  # fmt: skip
EXAMPLES = ("digits_qat_nnx.py", "digits_qat_linen.py", "text_qat.py")
COMMAND = "python benchmarks/readme.py write"
MEASURED = {"milliseconds": "time", "compile": "compile time", "temp": "memory", "bytes": "bytes accessed"}  # of a step
STUDENT = {4: 2.776}  # the 97.5 % point by degrees of freedom


def ladder() -> str:
    """The first screen: what `make demo` printed, from its recorded result."""
    from jaxquant.decide.console import decision_lines, head_text, row_text

    found = json.loads((RESULTS / "decide.json").read_text())
    lines = ["$ make demo", head_text()]
    lines += [f"{row_text(_namespace(row))}  {_verdict(row)}".rstrip() for row in found["rows"]]
    bits = found["bits"]
    made = found["decision"]
    lines += _folded(found["cancelled"])
    lines += ["", *decision_lines(made["sentence"], made["four_bits"]), ""]
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

    return textwrap.wrap(text, width)


def exhaustive() -> str:
    """One line a kind of job: inputs and differences."""
    path = RESULTS / "exhaustive.json"
    jobs = json.loads(path.read_text()) if path.exists() else {}
    whole = {name: job for name, job in jobs.items() if job["inputs"] == 2**32}
    inputs = sum(job["inputs"] for job in whole.values())
    wrong = sum(job["refquant"] + job["jaxquant"] for job in whole.values())
    encode = sum(name.startswith("encode") for name in whole)
    first, last = min(job["begun"] for job in whole.values()), max(job["begun"] for job in whole.values())
    when = first if first == last else f"{first} to {last}"
    return (
        f"All 2^32 float32 inputs have been compared between refquant, jaxquant and the third opinion for {encode} "
        f"`encode` and {len(whole) - encode} `quantize` jobs: {inputs:,} inputs, **{wrong} differences** "
        f"(`python benchmarks/exhaustive.py`, {when}, recorded in `benchmarks/results/exhaustive.json`)."
    )


def elementwise() -> str:
    """The speed table."""
    found = json.loads((RESULTS / "elementwise.json").read_text())
    lines = ["| operation, 4096 x 4096 float32 | share of the speed of the cheapest jitted operation |", "|---|---|"]
    lines += [f"| {row['what']} | {100 * row['speed']:.0f} % of {row['against']} |" for row in found["ours"]]
    lines += ["", "| peer in the same run | its time over ours |", "|---|---|"]
    lines += [f"| {row['peer']} | {row['peer_over_ours']:.2f} ({row['ours']}) |" for row in found["peers"]]
    return "\n".join([*lines, "", f"({found['device']}, JAX {found['jax']}; `python benchmarks/elementwise.py`)"])


def layers() -> str:
    """Integer layers beside their float twins: the span of each way, and by name what is clearly slower than float."""
    found = json.loads((RESULTS / "layers.json").read_text())
    rows = {name: row for name, row in found.items() if isinstance(row, dict)}
    ways = {
        "sum": "the int8 sum alone, codes given",
        "static": "whole layer, the inputs' scale given: codes, sum, float result",
        "layer": "whole layer, the inputs' range and scale computed too",
    }
    lines = [
        "| integer layers, times float's (1 is as fast) | lowest | highest | above 1.10 |",
        "|---|---|---|---|",
    ]
    for way, what in ways.items():
        times = sorted(((row[way], name) for name, row in rows.items() if way in row), reverse=True)
        slow = ", ".join(f"{name} {time:.2f}" for time, name in times if time > 1.1) or "none"
        lines.append(f"| {what} ({len(times)} layers) | {times[-1][0]:.2f} | {times[0][0]:.2f} | {slow} |")
    about = f"({found['device']}, JAX {found['jax']}; int8, g128: groups of 128; `python benchmarks/layers.py`)"
    return "\n".join([*lines, "", about])


def peers() -> str:
    """A training step and accuracy beside qwix, from one run each, and where jaxquant is behind."""
    steps, digits = (json.loads((RESULTS / name).read_text()) for name in ("qat.json", "qat_accuracy.json"))
    lines = ["| a step, times float's | " + " | ".join(MEASURED.values()) + " |", "|---" * 5 + "|"]
    for way, row in steps.items():
        if way != "float":
            ratios = [f"{row[key] / steps['float'][key]:.2f}" for key in MEASURED]
            lines.append(f"| {way} | " + " | ".join(ratios) + " |")
    for peer, what in (("qwix of codes", "qwix's with the same gradient"), ("qwix", "qwix's with its own")):
        lines += ["", f"| a step, jaxquant's over {what} | jaxquant is ahead | equal | behind |", "|---|---|---|---|"]
        lines += [_standing(steps, key, peer) for key in MEASURED]
    lines += ["", "| right digits in %, 5 seeds, 397 test images each | mean [lowest, highest] |", "|---|---|"]
    for way, values in digits.items():
        shares = [100 * value for value in values]
        lines.append(f"| {way} | {sum(shares) / len(shares):.1f} [{min(shares):.1f}, {max(shares):.1f}] |")
    lines += ["", "| right digits, jaxquant - qwix | points [95 %, 5 seeds] | jaxquant is |", "|---|---|---|"]
    lines += [_gap(digits, way) for way in digits if "jaxquant" in way]
    return "\n".join([*lines, "", "(`python benchmarks/qat.py`, `python benchmarks/qat_accuracy.py`, recorded)"])


def _standing(steps: dict, key: str, peer: str) -> str:
    """One measure of a step: on which schemes jaxquant needs less than its peer, as much (to two digits), more."""
    places: dict[str, list[str]] = {"ahead": [], "equal": [], "behind": []}
    for scheme in [way.removeprefix("jaxquant ") for way in steps if way.startswith("jaxquant ")]:
        ratio = round(steps[f"jaxquant {scheme}"][key] / steps[f"{peer} {scheme}"][key], 2)
        places["ahead" if ratio < 1 else "behind" if ratio > 1 else "equal"].append(f"{scheme} {ratio:.2f}")
    return f"| {MEASURED[key]} | " + " | ".join(", ".join(found) or "-" for found in places.values()) + " |"


def _gap(digits: dict, way: str) -> str:
    """The difference to qwix's twin of a way, paired by seed, with Student's interval."""
    twin = digits[way.replace("jaxquant LSQ", "qwix").replace("jaxquant", "qwix")]
    gaps = [100 * (ours - theirs) for ours, theirs in zip(digits[way], twin, strict=True)]
    mean = statistics.fmean(gaps)
    half = STUDENT[len(gaps) - 1] * statistics.stdev(gaps) / len(gaps) ** 0.5
    word = "equal" if round(mean, 2) == 0 else "ahead" if mean > 0 else "behind"
    word += "" if word == "equal" or abs(mean) > half else ", within what seeds vary by"
    return f"| {way.replace(' jaxquant', '')} | {mean:+.2f} [{mean - half:+.2f}, {mean + half:+.2f}] | {word} |"


def printed(example: str) -> str:
    """What an example printed, without the report of its layers."""
    found = json.loads((RESULTS / "qat_examples.json").read_text())
    paragraphs = "\n".join(found["printed"][example]).split("\n\n")
    lines = [paragraph for paragraph in paragraphs if not paragraph.startswith("path ")]
    made = found["provenance"]
    about = f"(JAX {made['versions']['jax']}, Python {made['python']}, {made['made'][:10]})"
    return "\n".join(["```text", "\n\n".join(lines), about, "```"])


PARTS = {"ladder": ladder, "exhaustive": exhaustive, "elementwise": elementwise, "layers": layers, "peers": peers}
PARTS |= {example: partial(printed, example) for example in EXAMPLES}


def rendered(text: str) -> str:
    """A page with every generated part anew."""
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


def record_examples() -> None:
    """Runs the examples of docs/qat.md one after the other: every line that they print, and a digest of every file."""
    with tempfile.TemporaryDirectory() as folder:
        lines = {example: _lines(HERE.parent / "examples" / example, folder) for example in EXAMPLES}
        files = {path.name: sha256_file(path) for path in sorted(Path(folder).iterdir())}
    from jaxquant.decide.job import provenance  # it asks for JAX's device, which the examples have let go

    found = {"printed": lines, "files": files, "provenance": provenance()}
    with atomic_path(RESULTS / "qat_examples.json", overwrite=True) as temporary:
        temporary.write_text(json.dumps(found, indent=1) + "\n")


def _lines(example: Path, folder: str) -> list[str]:
    done = subprocess.run([sys.executable, example], cwd=folder, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout.splitlines()


def main(arguments: list[str]) -> int:
    if arguments[:1] == ["record"] and len(arguments) == 2:
        record(Path(arguments[1]))
        arguments = ["write"]
    if arguments == ["examples"]:
        record_examples()
        arguments = ["write"]
    if arguments not in (["write"], ["check"]):
        print(__doc__, file=sys.stderr)
        return 2
    stale = {page: new for page in PAGES if (new := rendered(old := page.read_text(encoding="utf-8"))) != old}
    for page, new in stale.items():
        if arguments == ["check"]:
            print(f"{page.name} is stale; run: {COMMAND}", file=sys.stderr)
            continue
        with atomic_path(page, overwrite=True) as temporary:
            temporary.write_text(new, encoding="utf-8")
    return int(arguments == ["check"] and bool(stale))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
