"""`jaxquant diff`: do two files hold the same model?"""

from pathlib import Path
from typing import Annotated

import typer


def command(
    a: Annotated[Path, typer.Argument(help="A safetensors file, float or quantized; or a folder of shards.")],
    b: Annotated[Path, typer.Argument(help="Another one.")],
    answers: Annotated[Path | None, typer.Option(help="A bert folder: also compare both files' answers in it.")] = None,
    top: Annotated[int, typer.Option(help="Tensors shown.")] = 12,
    json: Annotated[bool, typer.Option("--json", help="The comparison as JSON on stdout.")] = False,
) -> int:
    """Compare two files tensor by tensor (quantized ones as the values they stand for), worst first.

    Examples:  jaxquant diff model.safetensors small.safetensors
    |   jaxquant diff model.safetensors small.safetensors --answers model-folder
    """
    from jaxquant.diff import diff_command

    return diff_command(a, b, answers=answers, top=top, as_json=json)
