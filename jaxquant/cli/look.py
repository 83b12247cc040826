"""`jaxquant look`: what a file of weights would weigh under every scheme, from its header alone."""

from pathlib import Path
from typing import Annotated

import typer


def command(
    file: Annotated[Path, typer.Argument(help="A safetensors file, a folder of shards, or an index.json.")],
    errors: Annotated[str | None, typer.Option(help="Read the data: error of each tensor under this scheme.")] = None,
    scheme: Annotated[list[str] | None, typer.Option(help="One more row of sizes; may be repeated.")] = None,
    picture: Annotated[Path | None, typer.Option(help="With --errors: PNG of the worst tensor and its grid.")] = None,
    top: Annotated[int, typer.Option(help="Tensors shown with --errors.")] = 12,
    json: Annotated[bool, typer.Option("--json", help="The numbers as JSON on stdout.")] = False,
) -> int:
    """Show the size by class under every scheme and what fits in 8, 16 and 24 GB, without reading the weights.

    Examples:  jaxquant look model.safetensors --scheme int5:g64:sf16
    |   jaxquant look model.safetensors --errors int4:g32:sf16
    """
    from jaxquant.look import look_command

    return look_command(file, errors=errors, schemes=tuple(scheme or ()), picture=picture, top=top, as_json=json)
