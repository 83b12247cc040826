"""The story that `jaxquant decide` tells, line by line."""

import json
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

from jaxquant.decide.bars import parse_bar, refuse_unreachable
from jaxquant.decide.decision import float_told
from jaxquant.decide.interrupts import held_back
from jaxquant.decide.ladder import rungs as make_rungs
from jaxquant.decide.ladder import timely
from jaxquant.decide.opening import DEFAULT
from jaxquant.decide.outputs import filled_whole, output_folder


def decide_command(
    model: str | None,
    *,
    on: str | None = None,
    score: str | None = None,
    bar: str = "lose<=2",
    schemes: list[str] | None = None,
    qat: bool = False,
    out: Path | None = None,
    json_output: bool = False,
) -> int:
    """Runs a decision from command-line texts; returns the exit code.

    Raises:
      ValueError: a text without meaning, an output folder that exists; before anything is computed.
      OSError: the output folder cannot be written; likewise.
    """
    from jaxquant.decide.console import Printer

    parsed, rungs = parse_bar(bar), make_rungs(tuple(schemes or ()), qat)
    if score is None:  # shares, of right answers or of agreement
        refuse_unreachable(parsed)
    folder = output_folder(out)
    printer = Printer(json=json_output)
    if model is None and on is None and score is None:
        _begin(printer, parsed)
    with printer.working(f"jaxquant decide: opening {model or DEFAULT} ..."):
        with held_back():
            import_module("flax.nnx")
        from jaxquant.decide.opening import open_target

        target, workload = open_target(model, on, score)
    return tell(target, workload, parsed, rungs, folder, printer, json_output=json_output)[0]


def _begin(printer: Any, bar: Any) -> None:
    """The default job takes nothing of the user's that could be wrong, so its first line comes before its work."""
    from jaxquant.decide.workloads.docstrings import locate_minilm

    folder, reason = locate_minilm()
    printer.headline(DEFAULT if folder else f"FALLBACK to a small net on digits, because {reason}", bar)


def tell(
    target: Any, workload: Any, bar: Any, rungs: Any, folder: Path, printer: Any, *, json_output: bool = False
) -> tuple[int, dict[str, Any]]:
    """Climbs the ladder, prints it, and writes report, JSON and model; returns exit code and result.

    Nothing is printed before the float model has answered: an error until then stands alone (CMD-2).
    """
    from jaxquant.decide.finite import refuse_weights
    from jaxquant.decide.job import Job, digest
    from jaxquant.decide.run import Ladder

    refuse_weights(target)
    workload, material = workload.split() if any(rung.qat for rung in rungs) else (workload, None)
    if hasattr(workload, "check"):
        workload.check(target.forward({}))
    ladder = Ladder(target, workload, bar, material, watcher=printer)
    job = Job(ladder, ladder.distinct(rungs))
    before = digest(target)
    rows = job.climb()
    with printer.working("asking the float model ..."):
        first = next(rows)
    _introduce(printer, target, workload, material, bar)
    printer.head(bar, float_told(bar, first.own))
    printer.row(first)
    _climb(job, rows, printer)
    made = job.decide()
    printer.decision(made.sentence, made.four_bits, [job.found["cancelled"], job.found["caution"]])
    _bits(job, printer)
    subject = job.subject()
    job.changed()
    printer.changed(job.found["changed"], job.found["changed_counts"], subject, job.found["changed_by"])
    with printer.working("measuring speed ..."):
        timings = job.speed()
    printer.speed(timings, job.found["speed"]["sentence"])
    with printer.working("looking at tensors and inputs ..."):
        job.anatomy()
    result = _write(job, folder, before, printer)
    if json_output:
        json.dump(result, sys.stdout, indent=1)
    return (5 if result["bits"]["differing"] else made.exit_code), result


def _introduce(printer: Any, target: Any, workload: Any, material: Any, bar: Any) -> None:
    from jaxquant.sizes import size_text

    printer.headline(target.source.name, bar)
    weights = sum(info.size for info in target.infos)
    printer.line(
        f"model     {target.source.name}: {weights:,} weights, {size_text(sum(i.nbytes for i in target.infos))}"
    )
    for k, text in enumerate(workload.describe().splitlines()):
        printer.line(("workload  " if k == 0 else "          ") + text)
    if material:
        printer.line(f"training  {material.about}")
    printer.line()


def _climb(job: Any, rows: Any, printer: Any) -> None:
    for step, rung in enumerate(timely(job.rungs), 1):
        with printer.working(f"{step} of {len(job.rungs)}: {rung.label} ..."):
            row = next(rows)
        printer.row(row)
    printer.notes(job.rows)


def _bits(job: Any, printer: Any) -> None:
    compared, differ = sum(r.codes for r in job.rows), sum(r.differing for r in job.rows)
    verdict = (
        "0 differ" if not differ else f"{differ:,} DIFFER: a bug, please report it with the JSON beside the report"
    )
    printer.line(f"NumPy and JAX compared on all {compared:,} codes, scales and zero points of every row: {verdict}")
    printer.line()


def _write(job: Any, folder: Path, before: str | None, printer: Any) -> dict[str, Any]:
    from jaxquant.decide.job import digest
    from jaxquant.decide.report import write_report
    from refquant.files import atomic_path

    with filled_whole(folder) as place:
        folder, saved = place.parent, job.save(place)
        after = digest(job.ladder.target)
        job.found["source"] = {"sha256_before": before, "sha256_after": after, "untouched": before == after}
        result = job.result()
        result |= {"seconds": time.perf_counter() - job.started, "folder": str(folder.resolve())}
        with atomic_path(place / "result.json") as temporary:
            temporary.write_text(json.dumps(result, indent=1), encoding="utf-8")
        write_report(result, place / "report.html")
    if saved:
        found = job.found["saved"]
        printer.line(f"model     {folder / saved.name} ({found['bytes']:,} bytes, predicted {found['predicted']:,})")
    if before:
        printer.line(f"source    sha256 {before[:16]}... {'unchanged' if before == after else 'CHANGED'}")
    printer.line(f"report    {folder / 'report.html'}  (numbers: {folder / 'result.json'})")
    return result
