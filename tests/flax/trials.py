"""What the trials of both APIs share: see linen_trials.py and nnx_trials.py."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

Leaves = dict[str, Any]
WIDE = {"width": 400, "force_terminal": False}
#: An entry for each trace of a step of training.
TRACED: list[None] = []


def total(results: Any) -> jax.Array:
    """The sum of squares of all finite results, float32."""
    wide = [v.astype(jnp.float32) for v in jax.tree.leaves(results)]
    return sum(jnp.sum(jnp.where(jnp.isfinite(v), v, 0) ** 2) for v in wide)
