"""`jaxquant quantize`: a quantized copy of any safetensors checkpoint, streamed."""

import json as json_module
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from jaxquant.decide.interrupts import held_back

SHOWN = 8  # names of tensors with elements that are not finite; the JSON has all


def command(
    source: Annotated[Path, typer.Argument(help="A safetensors file, folder of shards or index.json; only read.")],
    output: Annotated[Path, typer.Argument(help="The file to write; whole or absent afterwards.")],
    weights: Annotated[
        str, typer.Option(help="Scheme of matrices and kernels, or a whole one as decide prints it.")
    ] = "int8:channel",
    embeddings: Annotated[str | None, typer.Option(help="Scheme of embedding tables; default: left in float.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing output.")] = False,
    restart: Annotated[bool, typer.Option("--restart", help="Do not go on with an interrupted run.")] = False,
    json: Annotated[bool, typer.Option("--json", help="The plan as JSON on stdout.")] = False,
) -> int:
    """Write a quantized copy of a checkpoint, tensor by tensor; an interrupted run goes on where it stopped.

    Shards become one file.

    Examples:  jaxquant quantize model.safetensors small.safetensors --weights int4:g128:sf16
    |   jaxquant quantize in.safetensors out.safetensors --weights w=int4:g32,e=int8
    """
    from refquant.files import refuse_existing, refuse_same, refuse_unwritable

    scheme = _scheme(weights, embeddings)
    refuse_same(output, [source])
    refuse_existing(output, overwrite=overwrite, way="--overwrite")
    refuse_unwritable(output, "quantize")
    run = _Run(output, goes_on=not restart, as_json=json)
    plans = run.quantize(source, replace(scheme, inputs=None), overwrite=overwrite)
    _report(source, output, plans, scheme.inputs, run)
    return 0


class _Run:
    """One run with its progress, which says whether it goes on with an interrupted one, and whether another could.

    Attributes:
      state: "new", "resumed" or "restarted"; "" before the first tensor.
      reason: why an interrupted run was not gone on with.
    """

    def __init__(self, output: Path, *, goes_on: bool, as_json: bool):
        self.output, self.goes_on, self.as_json = output, goes_on, as_json
        self.state = self.reason = ""

    def quantize(self, source: Path, scheme: Any, *, overwrite: bool) -> tuple:
        """The plans of all tensors, written.

        Raises:
          KeyboardInterrupt: with what to tell of the partial file, this run's or an earlier one's, where one stays.
        """
        try:
            with held_back():
                from jaxquant.store import quantize_file
            with _progress() as progress:
                return quantize_file(
                    source, self.output, scheme, overwrite=overwrite, resume=self.goes_on, progress=progress,
                    begun=self._begun,
                )  # fmt: skip
        except KeyboardInterrupt:
            raise KeyboardInterrupt(self._kept()) from None

    def _begun(self, writer: Any) -> None:
        self.state, self.reason = writer.state, writer.reason
        done, count = len(writer.infos) - len(writer.pending), len(writer.infos)
        told = {
            "resumed": f"goes on with an interrupted run, {done} of {count} parts of it are written",
            "restarted": f"starts over, the interrupted run does not fit: {self.reason}",
        }
        if self.state in told and not self.as_json:
            print(f"{self.output}: {told[self.state]}", flush=True)

    def _kept(self) -> str:
        from refquant.files import partial_paths

        partial = partial_paths(self.output)[0]
        if not partial.exists():
            return ""
        if self.state and self.goes_on:
            return f"{partial} stays, and the same command goes on with it"
        return f"originals are untouched; {partial}, of an earlier run, stays as it was"


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    """A bar on stderr where somebody watches."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from refquant.files.printable import printable

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=console, transient=True)
    task = bar.add_task("quantizing")

    def progress(name: str, done: int, total: int) -> None:
        if console.is_interactive:  # and with the first tensor: elsewhere it would end in a blank line
            bar.start()
        bar.update(task, completed=done, total=total, description=printable(name)[-48:])

    try:
        yield progress
    finally:
        if bar.live.is_started:
            bar.stop()


def _scheme(weights: str, embeddings: str | None) -> Any:
    """What the two texts say.

    Raises:
      ValueError: a text that is no scheme, embeddings in both, or a training.
    """
    from refquant.schemes import parse, parse_tensor

    if re.search(r"\+\s*qat\s*$", weights, re.IGNORECASE):
        raise ValueError(
            f"quantize: --weights is {weights!r}, need a scheme without '+ QAT' (a training needs the model: jaxquant "
            "decide saves the trained file)"
        )
    scheme = parse(weights)
    if embeddings and scheme.embeddings:
        raise ValueError(f"quantize: --embeddings is given beside e={scheme.embeddings} in --weights, need one of them")
    return replace(scheme, embeddings=parse_tensor(embeddings)) if embeddings else scheme


def _report(source: Path, output: Path, plans: tuple, inputs: Any, run: _Run) -> None:
    from jaxquant.sizes import size_text
    from jaxquant.store_checks import not_finite
    from refquant.files import read_headers
    from refquant.files.printable import printable

    headers = read_headers(source)
    before, after = sum(header.file_size for header in headers), output.stat().st_size
    bad = not_finite(headers)
    done = [plan for plan in plans if plan.scheme]
    if run.as_json:
        entries = [
            {"name": p.info.name, "kind": p.kind, "scheme": str(p.scheme or "float"), "why": p.why} for p in plans
        ]
        found = {"bytes_before": before, "bytes_after": after, "tensors": entries, "not_finite": bad}
        found |= {"state": run.state, "reason": run.reason}
        found["inputs"] = str(inputs) if inputs else None
        print(json_module.dumps(found, indent=1))
        return
    now, then = (size_text(count, decimals=2) for count in (after, before))
    print(f"{output}: {now} from {then}; {len(done)} of {len(plans)} tensors quantized")
    for why in sorted({plan.why for plan in plans if plan.why}):
        left = [plan for plan in plans if plan.why == why]
        size = size_text(sum(p.info.nbytes for p in left), decimals=2)
        print(f"  left as they were: {len(left)} ({size}), {why}")
    if inputs:
        print(f"  a={inputs} is in no file: inputs get codes where the model runs (jaxquant.decide.winner)")
    if bad:
        names = ", ".join(f"{printable(name)} ({count:,})" for name, count in list(bad.items())[:SHOWN])
        more = f" and {len(bad) - SHOWN} more" if len(bad) > SHOWN else ""
        print(f"  NaN or infinite: {sum(bad.values()):,} elements in {len(bad)} tensors: {names}{more}")
