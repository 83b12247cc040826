"""`jaxquant doctor`: which numeric hazards does this device show, and do the guards hold on it?"""

from typing import Annotated

import typer

from jaxquant.decide.interrupts import held_back


def command(
    size: Annotated[int, typer.Option(help="Elements of each probe.")] = 262_144,
    json: Annotated[bool, typer.Option("--json", help="The findings as JSON on stdout.")] = False,
) -> int:
    """Show where plain JAX differs from NumPy on this device, and check that jaxquant's guards do not.

    Examples:  jaxquant doctor   |   jaxquant doctor --json
    """
    with held_back():
        from jaxquant.doctor import doctor_command

    return doctor_command(size, as_json=json)
