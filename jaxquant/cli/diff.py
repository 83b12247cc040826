"""`jaxquant diff`: do two files hold the same model, and do they answer alike?"""

from pathlib import Path
from typing import Annotated

import typer

from jaxquant.decide.interrupts import held_back


def command(
    a: Annotated[
        str, typer.Argument(help="A safetensors file, float or quantized; a folder of shards; or module:function.")
    ],
    b: Annotated[Path, typer.Argument(help="Another file or folder.")],
    answers: Annotated[
        str | None, typer.Option(help="Also compare answers in this model: module:function or a bert folder.")
    ] = None,
    on: Annotated[str | None, typer.Option(help="module:function giving the examples.")] = None,
    score: Annotated[
        str | None, typer.Option(help="module:function scoring (output, example); default: agreement with A.")
    ] = None,
    top: Annotated[int, typer.Option(help="Tensors and changed answers shown.")] = 12,
    json: Annotated[bool, typer.Option("--json", help="The comparison as JSON on stdout.")] = False,
) -> int:
    """Compare two files tensor by tensor (quantized ones as the values they stand for), and their answers; worst first.

    Examples:  jaxquant diff model.safetensors small.safetensors
    |   jaxquant diff mymodel:build jaxquant-decide/model.safetensors --on mydata:examples --score mydata:score
    |   jaxquant diff model.safetensors small.safetensors --answers model-folder
    """
    with held_back():
        from jaxquant.diff import diff_command

    return diff_command(a, b, answers=answers, on=on, score=score, top=top, as_json=json)
