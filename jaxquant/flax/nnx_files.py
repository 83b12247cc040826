"""Between a converted NNX model and the tensors of a file."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxquant.flax import finite
from jaxquant.flax.mark import is_mark
from jaxquant.flax.nnx_layers import layers_of
from jaxquant.flax.nnx_leaves import tell_kernels, with_inputs
from jaxquant.flax.nnx_variables import set_value, value_of
from jaxquant.flax.site import spec_text
from jaxquant.qtensor import QTensor
from jaxquant.store_trees import flatten


def tensors(model: nnx.Module) -> dict[str, Any]:
    """What a file of a converted model holds, for `store.save`: all of its state but random streams.

    Args:
      model: from `convert`.
    Returns:
      path → array or QTensor, the parts of a path joined by "/" (FIL-6).
    Raises:
      ValueError: the model is not converted (its kernels are floats), or two paths are the same text.
    """
    _check_converted("tensors", model)
    return flatten(nnx.to_pure_dict(_stored(model)))


def restore(model: nnx.Module, tensors: Mapping[str, Any], *, seed: int = 0) -> None:
    """Put the tensors of a file into a converted model, in place.

    Args:
      model: from `convert`, with values or abstract: of `nnx.eval_shape`, so that no weight was ever made.
      tensors: from `store.load`, a file that `tensors` of the same model has given.  Where it has the input leaves of
        a table that attends, a model that was prepared without x gets them.
      seed: of the random streams that have no key yet (dropout); those that have one keep it.
    Raises:
      ValueError: the model is not converted; a tensor is missing, unknown, or has another shape, dtype or spec; a scale
        is zero or not finite; the model is unchanged then.
    """
    _check_converted("restore", model)
    own = {path for path, _ in nnx.to_flat_state(_stored(model))}
    may = nnx.to_flat_state(_stored(with_inputs(model)))
    state = nnx.from_flat_state([(at, v) for at, v in may if at in own or _name(at) in tensors])
    variables = {_name(path): variable for path, variable in nnx.to_flat_state(state)}
    _check_names(variables, tensors)
    for name, variable in variables.items():
        _check_alike(name, tensors[name], value_of(variable))
        path, _, leaf = name.rpartition("/")
        if isinstance(tensors[name], QTensor):
            finite.check_constant("restore", path, f"{leaf}'s scale", tensors[name].scale)
        elif leaf == "inputs_scale":
            finite.check_constant("restore", path, leaf, tensors[name])
    for name, variable in variables.items():
        set_value(variable, jax.tree.map(jnp.asarray, tensors[name]))
    nnx.update(model, state)
    tell_kernels(model)
    _seed(model, seed)


def _name(path: tuple) -> str:
    return "/".join(map(str, path))


def _stored(model: nnx.Module) -> nnx.State:
    """Random state is no part of what a model has learned, and a file has no dtype for its keys."""
    return nnx.state(model, nnx.Not(nnx.RngState))


def _check_converted(function: str, model: nnx.Module) -> None:
    found = layers_of(model)
    if not found or not all(layer.converted for layer in found):
        what = "not converted" if found else "not prepared"
        raise ValueError(f"{function}: the model is {what}, need what convert returned (codes in place of kernels)")


def _check_names(variables: Mapping[str, Any], tensors: Mapping[str, Any]) -> None:
    for name in variables:
        if name not in tensors:
            own = is_mark(name.rpartition("/")[2])
            need = "a file of the recipe whose mark that is" if own else "one tensor for each of the model's Variables"
            raise ValueError(f"restore: {name!r} is missing, need {need}")
    for name in tensors:
        if name not in variables:
            raise ValueError(f"restore: the model has no {name!r}, need the same model and recipe that were saved")


def _check_alike(name: str, given: Any, own: Any) -> None:
    if _text(given) != _text(own) or jax.tree.structure(given) != jax.tree.structure(own):
        raise ValueError(
            f"restore: {name!r} is {_text(given)}, need {_text(own)} (the same model and recipe that were saved)"
        )


def _text(value: Any) -> str:
    prefix = f"{spec_text(value.spec)} of " if isinstance(value, QTensor) else ""
    return prefix + ", ".join(f"{jnp.dtype(v.dtype).name}{list(v.shape)}" for v in jax.tree.leaves(value))


def _seed(model: nnx.Module, seed: int) -> None:
    """Keys for the streams of a model that was made by nnx.eval_shape; streams of two names are two of a seed."""
    keys = [variable for _, variable in nnx.to_flat_state(nnx.state(model, nnx.RngKey))]
    tags = {key.tag for key in keys if isinstance(value_of(key), jax.ShapeDtypeStruct)}
    if tags:
        chosen = jax.random.split(jax.random.key(seed), len(tags))
        nnx.reseed(model, policy="match_shape", **dict(zip(sorted(tags), chosen, strict=True)))
