"""Quantization of Flax NNX models: prepare, train or calibrate, convert; `explain` and `labels` beside them.

Example:
  >>> import jax.numpy as jnp
  >>> from flax import nnx
  >>> from jaxquant.flax import Recipe, Rule, nnx_api
  >>> model = nnx.Linear(4, 2, rngs=nnx.Rngs(0))
  >>> x = jnp.ones((3, 4))
  >>> qmodel, report = nnx_api.prepare(model, Recipe(Rule("**", weights="int4", inputs="int8:token")), x)
  >>> print(report)
  path  kind    weights     inputs              why
  ----  ------  ----------  ------------------  ------------
  .     Linear  int4:axis1  int8:token dynamic  rule 1: '**'
  >>> imodel = nnx_api.convert(qmodel)
  >>> bool((imodel(x) == qmodel(x)).all()), imodel.kernel.codes.dtype
  (True, dtype('int8'))
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxquant.flax import measures, nnx_attention, observers, state_dicts
from jaxquant.flax.labels import labels
from jaxquant.flax.measures import Explanations
from jaxquant.flax.nnx_convert import check_started, convert
from jaxquant.flax.nnx_files import restore, tensors
from jaxquant.flax.nnx_layers import attentions_of, layers_of
from jaxquant.flax.nnx_leaves import set_inputs, stacked_axes
from jaxquant.flax.nnx_prepare import prepare
from jaxquant.flax.nnx_variables import Codes, Explained, Observed, Scale, Step, value_of
from jaxquant.flax.nnx_walk import check_methods, evaluating
from jaxquant.flax.optimizers import check_state

__all__ = [
    "Codes", "Observed", "Scale", "Step", "advance", "calibrate", "check_optimizer", "convert", "explain", "labels",
    "observe", "prepare", "restore", "tabulate", "tensors",
]  # fmt: skip

state_dicts.register()


def observe(model: nnx.Module, x: Any = None, *, method: str = "__call__") -> Any:
    """Run the float model on a batch, in evaluation mode, while layers with a static input scale note what they see.

    Args:
      model: from `prepare`; its statistics are kept in it as Variables of type Observed, until `calibrate`.
      x: the model's argument, or a tuple of several.  None: nothing runs, and the statistics have seen nothing yet: the
        place where a checkpoint of a model that was observed half is restored.
      method: what is called.
    Returns:
      What the float model returns; None without x.
    Raises:
      ValueError: no layer has a static input scale, the model is converted, or it has no such method.
    """
    check_methods("observe", "method", model, () if x is None else (method,))
    found = _masters("observe", model)
    static = [layer for layer in found if layer.site.static]
    if not static:
        raise ValueError("observe: no layer has a static input scale, need a rule with input_scale='static'")
    for layer in static:
        if not hasattr(layer, "observed"):
            layer.observed = Observed(_stacked(layer, observers.init(layer.site)))
    return None if x is None else _run(model, found, "observe", x, method)


def calibrate(model: nnx.Module) -> None:
    """Set every static input scale from what its layer has seen, and forget the statistics.

    Args:
      model: after `observe`; changed in place.  A table that was seen to attend has input leaves from here on, where
        `prepare` was not shown it.
    Raises:
      ValueError: a layer saw no data, zeros alone, NaN or infinities.
    """
    static = [layer for layer in _masters("calibrate", model) if layer.site.static]
    found = [(layer, _leaves_seen(layer)) for layer in static]
    if static and not any(leaves for _, leaves in found):
        observers.check(None, static[0].path)  # a table need not be attended where others saw data; nothing did here
    set_inputs(model, found)
    for layer in (layer for layer in static if hasattr(layer, "observed")):
        del layer.observed


def explain(model: nnx.Module, x: Any, *, method: str = "__call__") -> Explanations:
    """What quantization does to each layer, on one batch, in evaluation mode.

    Args:
      model: from `prepare`; unchanged afterwards.
      x: the model's argument, or a tuple of several.
      method: what is called.
    Returns:
      For each layer: the relative error of its output against the float layer on the same input, the shares of inputs
      and weights that are clipped, and how many codes are in use; for each product of an attention on codes its error
      and the share of both operands that is clipped.  Printable.
    Raises:
      ValueError: the model is converted, its schedule has not started, or it has no such method.
    """
    check_methods("explain", "method", model, (method,))
    clone = nnx.clone(model)
    attentions = nnx_attention.explained(clone)
    found = _masters("explain", clone) if layers_of(clone) or not attentions else []
    for layer in found:
        check_started("explain", layer)
        layer.explained = Explained(_stacked(layer, measures.nothing(layer.site)))
    _run(clone, found, "explain", x, method)
    rows = [(layer.path, value_of(layer.explained)) for layer in found]
    return measures.explanations([*rows, *nnx_attention.products(attentions)])


def tabulate(model: nnx.Module, *inputs: Any, explained: Explanations | None = None, **options: Any) -> str:
    """Flax's own table of the model, with what `explain` found in a column of its own.

    Args:
      model: from `prepare` or `convert`; unchanged.
      *inputs: of the model.
      explained: from `explain`, of this model before or after it was converted.
      **options: of nnx.tabulate and of the model.
    Returns:
      The table as text.
    """
    clone = nnx.clone(model)
    for layer in layers_of(clone):
        told = explained and explained.told(layer.path)
        if told:
            layer.explained = Explained(None, **vars(told))
    return nnx.tabulate(clone, *inputs, **options)


def advance(model: nnx.Module) -> None:
    """Count one step in every layer of a scheduled recipe; in place, in or outside of nnx.jit, nothing recompiles."""
    for layer in layers_of(model):
        if hasattr(layer, "step"):
            layer.step[...] = layer.step[...] + jnp.float32(1)


def check_optimizer(optimizer: nnx.Optimizer, model: nnx.Module) -> None:
    """Refuse an optimizer whose state is not that of the model's parameters.

    Args:
      optimizer: made with `wrt`, as nnx.Optimizer keeps it.
      model: from `prepare`.
    Raises:
      TypeError: no nnx.Optimizer.
      ValueError: it was made before `prepare`, or of a model with another recipe.
    """
    if not isinstance(optimizer, nnx.Optimizer):
        raise TypeError(f"check_optimizer: optimizer is a {type(optimizer).__name__}, need (nnx.Optimizer, the model)")
    fresh = nnx.eval_shape(lambda: nnx.Optimizer(model, optimizer.tx, wrt=optimizer.wrt))
    check_state(optimizer.opt_state, fresh.opt_state)


def _masters(function: str, model: nnx.Module) -> list[Any]:
    found = layers_of(model)
    if not found or any(layer.converted for layer in found):
        what = "converted" if found else "not prepared"
        raise ValueError(f"{function}: the model is {what}, need what prepare returned")
    return found


def _run(model: nnx.Module, found: list[Any], mode: str, x: Any, method: str) -> Any:
    attentions = [(one, one.attention_fn) for one in attentions_of(model)] if mode == "observe" else []
    for layer in found:
        layer.mode = mode
    for attention, _ in attentions:
        attention.attention_fn = nnx.dot_product_attention
    try:
        with evaluating(model):
            return getattr(model, method)(*(x if isinstance(x, tuple) else (x,)))
    finally:
        for layer in found:
            layer.mode = "quantized"
        for attention, products in attentions:
            attention.attention_fn = products


def _stacked(layer: Any, tree: Any) -> Any:
    """The same for each of the layers that are stacked for a scan."""
    lead = tuple(layer.weight.shape[: stacked_axes(layer)])
    return jax.tree.map(lambda v: jnp.broadcast_to(v, (*lead, *v.shape)), tree)


def _leaves_seen(layer: Any) -> dict[str, jax.Array]:
    observed = getattr(layer, "observed", None)
    stats = observers.init(layer.site) if observed is None else value_of(observed)
    seen = stats if hasattr(stats, "low") else stats.seen
    if (
        layer.is_table
        and not hasattr(layer, layer.site.input_names[0])
        and not (seen.count + seen.nan + seen.inf).any()
    ):
        return {}  # it is only looked up
    return observers.finalize(stats, layer.site, path=layer.path, stacked=stacked_axes(layer))
