"""Whether a layer can run on codes at all, and what an error says of it in short."""

from collections.abc import Callable
from typing import Any

import jax

from jaxquant.flax.rule import Rule, Where


def smallest(where: Where) -> Rule:
    """The rule that every layer can follow that can run on codes: no sum is too long for it, no axis has scales.

    Args:
      where: as in Rule.
    """
    return Rule(where, weights="int2:tensor", inputs="int2:tensor")


def refusal(run: Callable[[], Any]) -> str:
    """Why an operation refuses what it is given; "" where it does not.  Nothing is computed."""
    try:
        jax.eval_shape(run)
    except (TypeError, ValueError) as error:
        return in_short(error)
    return ""


def in_short(error: Exception) -> str:
    """What an error of this library says is wrong: "argument is X" of "function: argument is X, need Y (why)"."""
    wrong, _, _ = str(error).partition("\n")[0].partition(", need ")
    for _ in ("layer 'path': ", "function: "):
        wrong = wrong.partition(": ")[2] or wrong
    return wrong
