"""Quantization of unchanged Flax Linen models: QAT, calibration, conversion, all as functions of parameter trees.

Everything that a layer needs stands beside its kernel in "params": kernel_scale, kernel_offset, inputs_scale,
inputs_zero_point, inputs_offset, step, and the mark of the recipe (`mark`).  A converted layer has a QTensor where its
kernel was; where the master had another dtype than the module's param_dtype says, an empty kernel_dtype beside it.

Example:
  >>> import jax, jax.numpy as jnp
  >>> from flax import linen as nn
  >>> from jaxquant.flax import Recipe, Rule, linen_api
  >>> x = jnp.ones((3, 4))
  >>> params = nn.Dense(2).init(jax.random.key(0), x)["params"]
  >>> qmodel = linen_api.Quantized(nn.Dense(2), Recipe(Rule("**", weights="int4", inputs="int8:token")))
  >>> params, report = linen_api.prepare(qmodel, params, x)
  >>> print(report)
  path  kind   weights     inputs              why
  ----  -----  ----------  ------------------  ------------
  .     Dense  int4:axis1  int8:token dynamic  rule 1: '**'
  >>> iparams = linen_api.convert(qmodel, params)
  >>> same = qmodel.apply({"params": iparams}, x) == qmodel.apply({"params": params}, x)
  >>> bool(same.all()), iparams["kernel"].codes.dtype
  (True, dtype('int8'))
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import jax

from jaxquant.flax import linen_checks, observers, state_dicts
from jaxquant.flax.linen_acts import CONVERTED, EXPLAINED, calibrated, converted, explained, observed, prepared
from jaxquant.flax.linen_calls import Call, Frame, calls_of, framed
from jaxquant.flax.linen_quantized import Quantized
from jaxquant.flax.linen_sites import Path, is_leaf
from jaxquant.flax.linen_trees import Coverage, flat, is_abstract, kernel_beside, merged, steps_of
from jaxquant.flax.linen_visit import Act, grown
from jaxquant.flax.mark import is_mark
from jaxquant.flax.measures import Explanations, explanations
from jaxquant.flax.optimizers import check_optimizer
from jaxquant.flax.report import Report
from jaxquant.qtensor import QTensor

__all__ = [
    "Quantized", "advance", "calibrate", "check_optimizer", "convert", "explain", "labels", "observe", "prepare",
]  # fmt: skip

Methods = Mapping[str, Any]
state_dicts.register()


def prepare(
    qmodel: Quantized,
    params: Any,
    *inputs: Any,
    methods: Methods | None = None,
    collections: Mapping[str, Any] | None = None,
    rngs: Any = None,
    **options: Any,
) -> tuple[Any, Report]:
    """The float parameters with what the recipe's estimators need beside them; a pure function of the parameters.

    Args:
      qmodel: the model with its recipe.
      params: of the float model: arrays, or ShapeDtypeStructs (then so is the result).
      *inputs: of the model: arrays or ShapeDtypeStructs; only shapes, dtypes and static values count.
      methods: further methods by name, each with its argument or the tuple of them: {"decode": tokens}.
      collections: the other collections, where the model does not make them itself.
      rngs: as in apply.
      **options: of the model's `__call__`.
    Returns:
      (params with the same float leaves and new ones, the report of what each layer does).
    Raises:
      TypeError: methods is no dict of names.
      ValueError: a rule matches nothing or contradicts another, a layer's hook is set, a spec does not fit a layer, a
        weight of one that is quantized is not finite, parameters that are converted already, or no such method.
    """
    linen_checks.need_quantized("prepare", qmodel)
    variables = {**(collections or {}), "params": params}
    linen_checks.check_methods("prepare", "methods", qmodel.model, variables, methods)
    calls = [Call(None, inputs, options, rngs), *calls_of(methods, rngs)]
    with qmodel.remembering():
        qmodel.seen.clear()
        for call in calls:
            qmodel.remember(call)
        leaves, coverage = _leaves(qmodel, prepared, variables)
        linen_checks.check_weights("prepare", params, coverage.layers())
        report = coverage.check(qmodel.recipe, params)
        report = replace(report, added=len(leaves.keys() - flat(params).keys()), start=qmodel.recipe.start)
        return merged(params, leaves), report


def observe(
    qmodel: Quantized,
    params: Any,
    *inputs: Any,
    stats: Any = None,
    method: str | None = None,
    collections: Mapping[str, Any] | None = None,
    rngs: Any = None,
    **options: Any,
) -> Any:
    """Statistics of the inputs of all layers with static scales, while the model runs in float.

    Args:
      qmodel: the model with its recipe.
      params: prepared; they are not changed.
      *inputs: one batch.
      stats: of earlier batches; None: there are none.
      method: its name; None is `__call__`.
      collections: the other collections, such as batch_stats.
      rngs: as in apply.
      **options: of the method.
    Returns:
      The statistics by layer, a tree of their own.
    Raises:
      ValueError: the recipe has no static scales, the parameters are converted, or the model has no such method.
    """
    linen_checks.need_quantized("observe", qmodel)
    call = Call(method, inputs, options, rngs)
    variables = {**(collections or {}), "params": merged(params, flat(stats or {}))}
    linen_checks.check_methods("observe", "method", qmodel.model, variables, (method,))
    frame, arrays = framed(call)
    leaves = _observed(qmodel, frame, variables, arrays)
    qmodel.remember(call, replace=False)
    if not leaves:
        raise ValueError("observe: no layer that runs has a static input scale (a dynamic one sees each input itself)")
    return merged(stats or {}, leaves)


@partial(jax.jit, static_argnums=(0, 1))
def _observed(qmodel: Quantized, frame: Frame, variables: Any, arrays: list) -> dict[Path, Any]:
    return grown(qmodel.model, qmodel.interceptor(observed, in_float=True), variables, (frame.call(arrays),))


def calibrate(
    qmodel: Quantized, params: Any, stats: Any, *inputs: Any, methods: Methods | None = None, **options: Any
) -> Any:
    """The parameters with the static input scales that follow from statistics.

    Args:
      qmodel: the model with its recipe.
      params: prepared.
      stats: what `observe` returned last; None: nothing, an error where a layer needs some.
      *inputs: of the model, where neither prepare nor apply has told qmodel their shapes.
      methods: as in prepare, likewise.
      **options: likewise.
    Raises:
      ValueError: a layer saw no data, zeros alone or what is not finite, converted parameters, or no such method.
    """
    linen_checks.need_quantized("calibrate", qmodel)
    linen_checks.check_methods("calibrate", "methods", qmodel.model, {"params": params}, methods)
    seen = flat(stats or {})
    for path, found in seen.items():
        observers.check(found, "/".join(path[:-1]))
    with qmodel.remembering():
        _remember(qmodel, "calibrate", inputs, options, methods)
        leaves, _ = _leaves(qmodel, calibrated, {"params": merged(params, seen)}, in_float=True)
    return merged(params, leaves)


def convert(
    qmodel: Quantized,
    params: Any,
    *inputs: Any,
    methods: Methods | None = None,
    collections: Mapping[str, Any] | None = None,
    **options: Any,
) -> Any:
    """The same tree with a QTensor where each quantized kernel was, and constants for learned input scales.

    Args:
      qmodel: the model with its recipe.
      params: trained or calibrated: arrays, or ShapeDtypeStructs (then so is the result, for restoring a checkpoint).
      *inputs: of the model, where neither prepare nor apply has told qmodel their shapes.
      methods: as in prepare, likewise.
      collections: the other collections, where the model does not make them itself.
      **options: of the model's `__call__`.
    Raises:
      ValueError: a weight of a layer is not finite; a scale is zero, not finite or not calibrated; the schedule has not
        started; a prepared layer was not reached; no layer that ran is quantized by the recipe; or no such method.
    """
    linen_checks.need_quantized("convert", qmodel)
    variables = {**(collections or {}), "params": params}
    linen_checks.check_methods("convert", "methods", qmodel.model, variables, methods)
    linen_checks.check_started("convert", qmodel.recipe, params)
    with qmodel.remembering():
        _remember(qmodel, "convert", inputs, options, methods)
        leaves, _ = _leaves(qmodel, converted, variables)
    _need_codes(qmodel, params, leaves)
    named = {(*path[:-1], path[-1].removeprefix(CONVERTED)): leaf for path, leaf in leaves.items()}
    layers = {path[:-1] for path in named}
    linen_checks.check_reached("convert", params, layers, list(qmodel.seen))
    linen_checks.check_weights("convert", params, layers)
    linen_checks.check_constants("convert", params, layers)
    return merged(params, named, without=lambda path: is_leaf(path[-1]) and path[:-1] in layers)


def explain(
    qmodel: Quantized,
    params: Any,
    *inputs: Any,
    method: str | None = None,
    collections: Mapping[str, Any] | None = None,
    rngs: Any = None,
    **options: Any,
) -> Explanations:
    """What quantization does to each layer: its error on the same input, what is clipped, which codes are in use.

    Products of attentions on codes have rows too, but inside nn.cond and nn.switch.

    Args:
      qmodel: the model with its recipe.
      params: prepared, not converted.
      *inputs: one batch.
      method: its name; None is `__call__`.
      collections: the other collections, such as batch_stats.
      rngs: as in apply.
      **options: of the method.
    Raises:
      ValueError: the parameters are converted, the schedule has not started, or the model has no such method.
    """
    linen_checks.need_quantized("explain", qmodel)
    linen_checks.check_started("explain", qmodel.recipe, params)
    call = Call(method, inputs, options, rngs)
    frame, arrays = framed(call)
    variables = {**(collections or {}), "params": params}
    linen_checks.check_methods("explain", "method", qmodel.model, variables, (method,))
    found = _explained(qmodel, frame, variables, arrays)
    qmodel.remember(call, replace=False)
    named = [("/".join(path[:-1]) + path[-1].removeprefix(EXPLAINED), sums) for path, sums in found.items()]
    return explanations([(name.strip(), sums) for name, sums in named])


@partial(jax.jit, static_argnums=(0, 1))
def _explained(qmodel: Quantized, frame: Frame, variables: Any, arrays: list) -> dict[Path, Any]:
    return grown(qmodel.model, qmodel.interceptor(explained), variables, (frame.call(arrays),))


def labels(params: Any) -> Any:
    """A label a leaf, for optax.multi_transform: "weights", "scales" (learned) or "frozen" (constants, codes, steps).

    Args:
      params: prepared or converted; or pass the function itself to optax.
    """
    leaves = flat(params)
    found = {path: jax.tree.map(lambda _, p=path: _label(p, leaves), leaf) for path, leaf in leaves.items()}
    return merged(params, found)


def _label(path: Path, leaves: Mapping[Path, Any]) -> str:
    owner, name, kernel = path[:-1], path[-1], kernel_beside(path, leaves)
    if isinstance(leaves[path], QTensor):
        return "frozen"
    if not is_leaf(name) or kernel is None:
        return "weights"
    constant = name in ("inputs_scale", "inputs_zero_point") and (*owner, "inputs_zero_point") in leaves
    still = constant or name == "step" or is_mark(name) or isinstance(kernel, QTensor)
    return "frozen" if still else "scales"


def advance(params: Any) -> Any:
    """The parameters one step later: 1 is added to the step of every layer that has one."""
    return merged(params, {path: jax.tree.map(lambda v: v + 1, leaf) for path, leaf in steps_of(params).items()})


def _need_codes(qmodel: Quantized, params: Any, leaves: Mapping[Path, Any]) -> None:
    """Refuse a conversion that changes nothing, unless there is nothing to change."""
    done = any(isinstance(leaf, QTensor) for leaf in flat(params).values())
    if not leaves and not done and any(rule.weights is not None for rule in qmodel.recipe.rules):
        methods = [name or "__call__" for name in qmodel.seen]
        raise ValueError(
            f"convert: nothing was converted, need a method that runs a layer with a rule (those that ran: {methods})"
        )


def _remember(
    qmodel: Quantized, function: str, inputs: tuple, options: dict[str, Any], methods: Methods | None
) -> None:
    for call in [*([Call(None, inputs, options)] if inputs or options else []), *calls_of(methods)]:
        qmodel.remember(call)
    if not qmodel.seen:
        raise ValueError(
            f"{function}: qmodel has not run yet, need the model's inputs too: {function}(qmodel, ..., x) (their "
            "shapes tell which layers there are)"
        )


def _leaves(qmodel: Quantized, act: Act, variables: Any, **options: Any) -> tuple[dict[Path, Any], Coverage]:
    """What an act puts, by runs with zeros whose results nobody computes, and what the runs came across."""
    interceptor = qmodel.interceptor(act, **options)
    calls = tuple(call.unseen() for call in qmodel.seen.values())

    def traced(variables: Any) -> dict[Path, Any]:
        return grown(qmodel.model, interceptor, variables, calls)

    leaves = jax.eval_shape(traced, variables) if is_abstract(variables) else jax.jit(traced)(variables)
    return leaves, interceptor.coverage
