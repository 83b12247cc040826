"""From a float NNX model to one whose layers run on codes: a clone, retyped in place, with a report."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxquant.flax import finite, nnx_folding, nnx_walk
from jaxquant.flax.attention import PRODUCTS, QuantizedAttention
from jaxquant.flax.names import named
from jaxquant.flax.nnx_layers import RETYPED, Quantized, layers_of
from jaxquant.flax.nnx_leaves import full, input_leaves, keep_attended, mark_leaves, tell_kernels, unset_inputs
from jaxquant.flax.nnx_variables import Scale, Step, beside, value_of
from jaxquant.flax.nnx_walk import Found
from jaxquant.flax.recipe import Recipe
from jaxquant.flax.report import Report, Row
from jaxquant.flax.rule import Rule
from jaxquant.flax.site import LayerSpec, ragged_text, resolve, resolve_attention
from jaxquant.flax.watch import Reached
from jaxquant.qat import starting


def prepare(
    model: nnx.Module, recipe: Recipe, x: Any = None, *, methods: Mapping[str, Any] | None = None
) -> tuple[nnx.Module, Report]:
    """A clone of a model whose layers are quantized by a recipe, and what each layer got.

    Args:
      model: any NNX module with values or abstract (nnx.eval_shape); unchanged afterwards.
      recipe: what to do with which layers.
      x: arguments of the model's call, one or a tuple, arrays or ShapeDtypeStructs: the model is traced once, so that
        every error comes now, the report names layers that were not reached, and a table that attends has its leaves
        for that (`nnx_leaves`; else from `calibrate` on).
      methods: arguments of other methods to trace, by name ("decode").
    Returns:
      (the clone, a report with a row for every module that has parameters).  Its float parameters have the same bits.
    Raises:
      TypeError: the model is no nnx.Module, the recipe no Recipe, or methods no dict of names.
      ValueError: a rule matches nothing or contradicts another, a layer's hook is set, specs do not fit a layer, a
        shared parameter is treated in two ways, a layer and a batch norm to fold are not one and one, a kernel to
        quantize is not finite, the model has no method of a name.
    """
    if not isinstance(model, nnx.Module):
        raise TypeError(f"prepare: model is a {type(model).__name__}, need an nnx.Module (Linen: linen_api)")
    if not isinstance(recipe, Recipe):
        raise TypeError(f"prepare: recipe is a {type(recipe).__name__}, need a Recipe(Rule(...), ...)")
    if layers_of(model):
        raise ValueError("prepare: the model is prepared already, need the float model (a recipe is applied once)")
    nnx_walk.check_methods("prepare", "methods", model, methods)
    clone = nnx.clone(model)
    found = nnx_walk.find(clone)
    recipe.check(place for one in found for place in one.places())
    decided = [(one, _rule(recipe, one)) for one in found]
    sites = {id(one.module): _site(recipe, one, rule) for one, rule in decided if _quantizes(one, rule)}
    norms = {id(one.module): _norm(clone, one, rule) for one, rule in decided if id(one.module) in sites and rule.fold}
    _check_shared(found, sites, norms)
    _check_norms(found, norms)
    rows = [row for one, rule in decided for row in _rows(recipe, one, rule, sites.get(id(one.module)))]
    _retype(found, sites, norms)
    freeze = recipe.schedule and recipe.schedule.freeze_batch_norm
    for one in found:
        if id(one.module) in norms:
            nnx_folding.attach(one.module, one.path, norms[id(one.module)], freeze)
            rows = [_folded_row(row, one, norms[id(one.module)], found) for row in rows]
    tell_kernels(clone)
    reached = trace(clone, x, methods or {})
    keep_attended(clone, () if reached is None else reached.fed)
    added = len(nnx.to_flat_state(nnx.state(clone, Scale)))
    return clone, Report(tuple(_noted(row, reached, clone) for row in rows), added, recipe.start)


def _quantizes(one: Found, rule: Rule | None) -> bool:
    return one.reason is None and rule is not None and rule.keep is None


def _rule(recipe: Recipe, one: Found) -> Rule | None:
    """The rule that decides about a module, the same by every path."""
    rules = [recipe.rule_for(place) for place in one.places()]
    for path, rule in zip(one.paths, rules, strict=True):
        if one.reason is None and rule != rules[0]:
            raise ValueError(
                f"prepare: the shared module {one.path!r} falls under {_label(rules[0])}, and as {path!r} under "
                f"{_label(rule)}, need one rule for both (they are one layer)"
            )
    return rules[0]


def _label(rule: Rule | None) -> str:
    return "no rule" if rule is None else f"rule {rule.label}"


def _site(recipe: Recipe, one: Found, rule: Rule) -> LayerSpec:
    hook = nnx_walk.hook_set(one.module)
    if hook is not None and (not one.attention or hook == "attention_fn"):
        raise ValueError(
            f"{named(one.path)}: {type(one.module).__name__} has {hook} set, need its default or a rule that keeps "
            "the layer in float (quantization would replace it)"
        )
    if one.attention:
        return resolve_attention(rule)
    shape, expected = _kernel(one).shape, nnx_walk.expected_shape(one.module)
    if tuple(shape[len(shape) - len(expected) :]) != tuple(expected):
        raise ValueError(
            f"{named(one.path)}: the kernel has shape {tuple(shape)}, need (..., {', '.join(map(str, expected))}): "
            "layers are stacked along the first axis"
        )
    finite.check_weight("prepare", one.path, one.kernel_name, value_of(_kernel(one)))
    kind, summed = nnx_walk.KINDS[type(one.module)], nnx_walk.summed(one.module)
    return resolve(rule, kind, expected, summed=summed, path=one.path, schedule=recipe.schedule)


def _kernel(one: Found) -> nnx.Variable:
    return getattr(one.module, one.kernel_name)


def _check_shared(found: list[Found], sites: dict[int, LayerSpec], norms: dict[int, nnx.BatchNorm]) -> None:
    """Every holder of a quantized kernel treats it in the same way, folded into the same norm or none."""
    holders: dict[int, list[tuple[str, Any]]] = {}
    for one in found:
        site = sites.get(id(one.module))
        for name, variable in nnx_walk.variables(one.module):
            own = site if site is not None and name == one.kernel_name else None
            how = own and (own.weights, own.weight_estimator, id(norms.get(id(one.module))))
            holders.setdefault(id(variable), []).append((one.path, how))
    for users in holders.values():
        for path, how in users:
            if how != users[0][1]:
                raise ValueError(
                    f"prepare: {users[0][0]!r} and {path!r} share a parameter and fall under rules that treat it in "
                    "two ways, need the same weights and no norm folded for both (it has one set of codes)"
                )


def _check_norms(found: list[Found], norms: dict[int, nnx.BatchNorm]) -> None:
    """No batch norm is folded into two layers."""
    users: dict[int, str] = {}
    for one in (one for one in found if id(one.module) in norms):
        first = users.setdefault(id(norms[id(one.module)]), one.path)
        if first != one.path:
            raise ValueError(
                f"prepare: {first!r} and {one.path!r} fold the same batch norm, need one for each layer, or a rule "
                "without fold (its statistics are of one layer's output)"
            )


def _norm(model: nnx.Module, one: Found, rule: Rule) -> nnx.BatchNorm | None:
    """The batch norm that a rule folds into a layer, the same by every path of the layer."""
    norm = nnx_walk.sibling(model, one.path, rule.fold)
    for path in one.paths:
        if nnx_walk.sibling(model, path, rule.fold) is not norm:
            raise ValueError(
                f"prepare: the shared {named(one.path)} is {path!r} too, with another {rule.fold!r} beside it, need "
                "the same batch norm, or a rule without fold (one layer has one folded kernel)"
            )
    if getattr(one.module, "transpose_kernel", False):
        raise ValueError(
            f"{named(one.path)}: fold with transpose_kernel, need a rule without fold (channels are not last)"
        )
    channels = nnx_walk.expected_shape(one.module)[-1]
    nnx_folding.check_norm(one.path, nnx_walk.KINDS[type(one.module)], channels, rule.fold, norm)
    return norm


def _folded_row(row: Row, one: Found, norm: nnx.Module, found: list[Found]) -> Row:
    paths = next((other.paths for other in found if other.module is norm), [])
    return Row(row.path, row.kind, "", "", f"folded into {one.path!r}") if row.path in paths else row


def _retype(found: list[Found], sites: dict[int, LayerSpec], norms: dict[int, nnx.BatchNorm]) -> None:
    made: dict[int, dict[str, nnx.Variable]] = {}
    for one in found:
        site, module = sites.get(id(one.module)), one.module
        if site is None:
            continue
        if one.attention:
            module.attention_fn = QuantizedAttention(site, path=one.path)
        else:
            kernel = _kernel(one)
            shared = made.setdefault(id(kernel), {})
            for name, variable in _leaves(one, site, kernel, shared, norms.get(id(module))).items():
                setattr(module, name, variable)
            module.site, module.path, module.mode = site, one.path, "quantized"
            module.reached = module.handoff = None
        object.__setattr__(module, "__class__", RETYPED[type(module)])


def _leaves(
    one: Found, site: LayerSpec, kernel: nnx.Variable, shared: dict, norm: nnx.BatchNorm | None
) -> dict[str, nnx.Variable]:
    """The Variables that a site names; those of a tied kernel's quantizer are shared as it is."""
    expected = nnx_walk.expected_shape(one.module)
    stacked = kernel.ndim - len(expected)
    if not shared and site.weight_names:
        master = value_of(kernel)
        master = master if norm is None else nnx_folding.folded(master, None, norm, stacked)[0]
        values = _started(site, master, stacked)
        pairs = zip(site.weight_names, values, strict=True)
        shared.update({name: beside(kernel, Scale, value, stacked=stacked) for name, value in pairs})
    leaves = dict(shared) if site.weight_names else {}
    leaves |= input_leaves(kernel, site, unset_inputs(kernel, site, stacked), stacked)
    if site.has_step:
        step = full(kernel, tuple(kernel.shape[:stacked]), 0, jnp.float32)
        leaves["step"] = beside(kernel, Step, step, stacked=stacked)
    return leaves | mark_leaves(kernel, site, leaves, stacked)


def _started(site: LayerSpec, kernel: Any, stacked: int) -> tuple[Any, ...]:
    def start(values: jax.Array) -> tuple[jax.Array, ...]:
        return starting.from_values(site.weight_estimator, values, site.weights)

    for _ in range(stacked):
        start = jax.vmap(start)
    return jax.eval_shape(start, kernel) if isinstance(kernel, jax.ShapeDtypeStruct) else start(kernel)


def _rows(recipe: Recipe, one: Found, rule: Rule | None, site: LayerSpec | None) -> list[Row]:
    kind = type(one.module).__name__
    if one.attention:
        why = recipe.why(rule) if rule else "off unless a rule has attention"
        text = "" if site is None else site.inputs_text
        return [Row(one.path, product, "", text, why) for product in PRODUCTS]
    also = "".join(f"; also {path!r}" for path in one.paths[1:])
    if site is None:
        why = one.reason if one.reason and not (rule and rule.keep) else recipe.why(rule)
        return [Row(one.path, kind, "", "", why + also)]
    why = recipe.why(rule) + ragged_text(site.weights, nnx_walk.expected_shape(one.module)) + also
    return [Row(one.path, kind, site.weights_text, site.inputs_text, why)]


def trace(model: nnx.Module, x: Any, methods: Mapping[str, Any]) -> Reached | None:
    """Run a prepared model on shapes alone; the layers that were reached, None where nothing was run."""
    calls = ({} if x is None else {"__call__": x}) | dict(methods)
    if not calls:
        return None
    reached = Reached()
    for layer in layers_of(model):
        layer.reached = reached
    graph, state = nnx.split(model)
    for layer in layers_of(model):
        layer.reached = None
    for name, given in calls.items():
        args = given if isinstance(given, tuple) else (given,)
        try:
            jax.eval_shape(lambda state, args, name=name: _called(nnx.merge(graph, state), name, args), state, args)
        except (AttributeError, TypeError) as error:
            if not isinstance(given, list):
                raise
            raise TypeError(
                f"prepare: the argument of {name} is a list, and the model does not take one, need an array, or a "
                f"tuple of the arguments ({error})"
            ) from error
    return reached


def _called(model: nnx.Module, name: str, args: tuple) -> Any:
    out = getattr(model, name)(*args) if name != "__call__" else model(*args)
    return jax.tree.leaves(out)


def _noted(row: Row, reached: Reached | None, model: nnx.Module) -> Row:
    """A layer's row with what the trace has told of it."""
    layer = next((layer for layer in layers_of(model) if layer.path == row.path), None)
    if layer is None:
        return row
    if reached is None:
        waits = layer.is_table and layer.site.static
        return replace(row, why=f"{row.why}; input scale from calibrate on, if it attends") if waits else row
    if row.path not in reached.paths:
        return replace(row, why=f"{row.why}; not reached by x")
    return replace(row, inputs="ids") if layer.is_table and row.path not in reached.fed else row


__all__ = ["Quantized", "prepare", "trace"]
