"""`jaxquant decide`: is 4-bit good enough for this model, on this workload?"""

from pathlib import Path
from typing import Annotated

import typer


def command(
    model: Annotated[
        str | None,
        typer.Argument(help="module:function giving a Flax model, or a folder of type bert; default: MiniLM."),
    ] = None,
    on: Annotated[
        str | None, typer.Option(help="module:function giving the examples, each without a batch axis.")
    ] = None,
    score: Annotated[
        str | None, typer.Option(help="module:function scoring (output, example); default: agreement.")
    ] = None,
    bar: Annotated[str, typer.Option(help="lose<=POINTS, score>=S or same>=P%.")] = "lose<=2",
    scheme: Annotated[list[str] | None, typer.Option(help="A rung instead of the default ladder; repeatable.")] = None,
    qat: Annotated[
        bool,
        typer.Option("--qat", help="Also train int4:channel (minutes, no labels); another: --scheme 'int3:g32 + QAT'."),
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="Folder for report, JSON and model; default: jaxquant-decide.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="The result as JSON on stdout.")] = False,
) -> int:
    """Quantize a model every way, ask it real questions, and say which file is good enough.

    Examples:  jaxquant decide   |   jaxquant decide mymodel:build --on mydata:examples --bar "lose<=1"
    """
    from jaxquant.decide.command import decide_command

    return decide_command(model, on=on, score=score, bar=bar, schemes=scheme, qat=qat, out=out, json_output=json)
