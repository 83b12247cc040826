"""The whole of `jaxquant decide` without a word printed: ladder, decision, what changed, speed, anatomy, files."""

import platform
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from jaxquant.decide import anatomy, decision, speed
from jaxquant.decide.caution import caution
from jaxquant.decide.changes import change, worst_first
from jaxquant.decide.decision import Candidate, Decision
from jaxquant.decide.ladder import Rung
from jaxquant.decide.rows import Row, cancelled
from jaxquant.decide.run import Ladder, Made
from jaxquant.decide.targets import Target
from jaxquant.grids import against_grid
from jaxquant.store import write_quantized
from refquant.files import sha256_file
from refquant.files.quantized import Plan
from refquant.schemes import Scheme, parse

CHANGED, LEAST = 200, 12  # changed answers kept of each kind: in all rows about, of a row at least
KINDS = {-1: "lost", 0: "changed", 1: "won"}


@dataclass
class Job:
    """One run; its parts fill in as they become known.

    Attributes:
      ladder: model, workload and bar.
      rungs: in order.
      rows: so far, float first.
      found: everything for the report and the JSON, by section.
    """

    ladder: Ladder
    rungs: Sequence[Rung]
    rows: list[Row] = field(default_factory=list)
    found: dict[str, Any] = field(default_factory=dict)
    started: float = field(default_factory=time.perf_counter)

    def climb(self) -> Iterator[Row]:
        """Rows as they are known; in `rows` they stand in the order of the rungs, which was fixed before (DEC-8)."""
        order = ["float", *(rung.label for rung in self.rungs)]
        for row in self.ladder.climb(self.rungs):
            self.rows.append(row)
            self.rows.sort(key=lambda row: order.index(row.scheme))
            yield row

    def decide(self) -> Decision:
        """The decision over all rows."""
        weights = {rung.label: rung.parsed.weights for rung in self.rungs}
        bits = {label: scheme.fmt.bits if scheme else None for label, scheme in weights.items()}
        base, *others = self.rows
        rows = [Candidate(r.scheme, r.bytes, r.verdict, bool(r.batch_told), bits[r.scheme]) for r in others]
        made = decision.decide(rows, self.ladder.bar, base.own)
        self.found["caution"], self.found["cancelled"] = caution(self.ladder.answers["float"]), cancelled(others)
        self.found["decision"] = made.as_dict() | {"seconds": time.perf_counter() - self.started}
        return made

    def subject(self) -> str:
        """The scheme that the reader will want to see closely: the winner, else the smallest that is not broken."""
        winner = self.found["decision"]["winner"]
        if winner:
            return winner
        open_rows = [row for row in self.rows[1:] if row.result != "FAIL"] or self.rows[1:]
        return min(open_rows, key=lambda row: row.bytes).scheme

    def changed(self) -> list[dict[str, Any]]:
        """Answers that differ from float's, of every row: lost before changed before won, each by the margin's drop.

        The worst of each kind are kept, and all counted: the worst of a broken row are all lost.

        Spec: DEC-16 (specs/70-decide.md).
        """
        work, base = self.ladder.workload, self.ladder.answers["float"]
        rows = [(row, scheme) for scheme, found in self.ladder.answers.items() for row in worst_first(base, found)]
        most, kept = max(CHANGED // max(len(self.rungs), 1), LEAST), []
        kinds: dict[str, dict[str, int]] = {}
        for (better, _, i), scheme in sorted(rows, key=lambda row: row[0][:2]):
            counts, kind = kinds.setdefault(scheme, dict.fromkeys(KINDS.values(), 0)), KINDS[int(better)]
            counts[kind] += 1
            if counts[kind] <= most:
                kept.append({"scheme": scheme, **change(work, base, self.ladder.answers[scheme], i)})
        self.found["changed"], self.found["changed_kinds"] = kept, kinds
        self.found["changed_counts"] = {scheme: sum(counts.values()) for scheme, counts in kinds.items()}
        self.found["changed_by"] = base.led
        return kept

    def speed(self) -> list[speed.Timing]:
        """Float against the winner, and the two ways of running quantized weights, at batch 1 and the workload's."""
        batch = self.ladder.workload.batches(1)[0]
        ways = self._ways()
        single = tuple(np.asarray(a)[:1] for a in batch)
        timings = speed.measure(ways, single, rounds=21) + speed.measure(ways, batch, rounds=5)
        self.found["speed"] = {"rows": [t.as_dict() for t in timings], "sentence": speed.summary(timings)}
        return timings

    def _ways(self) -> dict[str, Any]:
        target, ladder = self.ladder.target, self.ladder
        ways: dict[str, Any] = {"float": (target.forward({}), sum(i.nbytes for i in target.infos))}
        won = next((r for r in self.rungs if r.label == self.found.get("decision", {}).get("winner")), None)
        if won:
            how = "on integers" if won.parsed.inputs else "dequantized at each call"
            ways[f"the winner, {how}"] = self._way(ladder.made[won.label], won.parsed)
        for label, text in (
            ("int4, dequantized at each call", "int4:g32:sf16"),
            ("int8 inputs and weights", "w8a8:token"),
        ):
            scheme = parse(text)
            if won is None or won.parsed != scheme:
                plans = ladder.plans(scheme)
                ways[label] = self._way(Made(target, plans, ladder.quantizer(plans)), scheme)
        return ways

    def _way(self, made: Made, scheme: Scheme) -> tuple[Any, int]:
        """The model on its codes, and the bytes of its weights."""
        quantized = {name: entry.q for name, entry in made.checked.items()}
        run = made.target.forward_quantized(quantized, self.ladder.on_codes(made.plans, scheme))
        return run, sum(p.bits for p in made.plans) // 8

    def anatomy(self) -> None:
        """Errors of each tensor, outliers of each layer's inputs, the worst tensor against its grid."""
        text = self.subject()
        made = self.ladder.made[text]
        errors = anatomy.tensor_errors(made.target, made.checked, made.plans)
        worst = errors[0]["name"]
        q = made.checked[worst].q
        picture = against_grid([(np.asarray(made.target.tensor(worst)), q)], q.spec)
        self.found["tensors"] = {"scheme": text, "rows": errors}
        self.found["worst_tensor"] = {"name": worst, "scheme": str(q.spec.fmt.name), **picture}
        self.found["outliers"] = anatomy.outliers(self.ladder.target, self.ladder.workload.batches(4))

    def save(self, folder: Path) -> Path | None:
        """The winner as a file of its own; None without one.  Its size must be the predicted one."""
        winner = self.found["decision"]["winner"]
        if winner is None:
            return None
        made = self.ladder.made[winner]
        quantized = {name: entry.q for name, entry in made.checked.items()}
        path = folder / "model.safetensors"
        write_quantized(path, made.plans, quantized, made.target.tensor, dict(made.target.source.metadata))
        row = next(row for row in self.rows if row.scheme == winner)
        self.found["saved"] = {"path": path.name, "bytes": path.stat().st_size, "predicted": row.bytes}
        return path

    def result(self) -> dict[str, Any]:
        """Everything, JSON-friendly: what the report draws."""
        ladder = self.ladder
        return {
            "version": 1,
            "model": _model(ladder.target, ladder.plans(Scheme())),
            "workload": {"name": ladder.workload.name, "n": ladder.workload.n, "metric": ladder.workload.metric,
                         "about": ladder.workload.describe(), "digest": getattr(ladder.workload, "digest", None),
                         "training": ladder.material.about or None},
            "bar": ladder.bar.as_dict(),
            "rows": [row.as_dict() for row in self.rows],
            "sizes": {row.scheme: self._sizes(row.scheme) for row in self.rows},
            "bits": {"compared": sum(r.codes for r in self.rows), "differing": sum(r.differing for r in self.rows)},
            **self.found,
            "provenance": provenance(),
        }  # fmt: skip

    def _sizes(self, text: str) -> dict[str, int]:
        """Bytes by class of tensor, scales and zero points counted; what the file has beyond them is its header."""
        found: dict[str, int] = {}
        for plan in self.ladder.plans(Scheme()) if text == "float" else self.ladder.made[text].plans:
            found[plan.kind] = found.get(plan.kind, 0) + plan.bits // 8
        return found


def digest(target: Target) -> str | None:
    """sha256 of the source file, None for a model made in Python."""
    return sha256_file(target.source.path) if target.source.path else None


def provenance() -> dict[str, Any]:
    """Versions and the device that the numbers were measured with."""
    import os

    import jax

    packages = ("refquant", "numpy", "jax", "jaxlib", "flax")
    device = jax.devices()[0]
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "device": f"{device.platform}: {device.device_kind}",
        "cores": os.cpu_count(),
        "versions": {name: metadata.version(name) for name in packages},
        "made": time.strftime("%Y-%m-%d %H:%M:%S %Z"),
    }


def _model(target: Target, plans: Sequence[Plan]) -> dict[str, Any]:
    classes: dict[str, dict[str, int]] = {}
    for plan in plans:
        entry = classes.setdefault(plan.kind, {"weights": 0, "bytes": 0, "tensors": 0})
        entry["weights"] += plan.info.size
        entry["bytes"] += plan.info.nbytes
        entry["tensors"] += 1
    source = target.source
    return {
        "name": source.name,
        "path": str(source.path) if source.path else None,
        "weights": sum(e["weights"] for e in classes.values()),
        "classes": classes,
    }
