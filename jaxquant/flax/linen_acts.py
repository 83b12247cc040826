"""What becomes of a layer in each kind of run: prepared, observed, calibrated, converted."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxquant.flax import layers, measures, observers
from jaxquant.flax.linen_layers import boxed_codes, boxed_like, own_dtypes, quantized, state_of
from jaxquant.flax.linen_sites import Layer, Path, check_leaves, input_leaves, takes_codes
from jaxquant.flax.mark import mark_of, mark_value
from jaxquant.flax.names import named
from jaxquant.qat import starting
from jaxquant.qtensor import QTensor

#: Leaves that stand in the parameters only while a run lasts.
STATS, CONVERTED, EXPLAINED = "stats of the inputs", "converted ", "explained"

Thunk = Callable[[], Any]


def prepared(layer: Layer, call: Thunk) -> Any:
    """Put the leaves that the estimators need; those that stand there already stay.

    Raises:
      ValueError: the kernel is converted.
    """
    _need_master("prepare", layer)
    for name, value in initial(layer).items():
        if not layer.module.has_variable("params", name):
            layer.put(name, boxed_like(layer.boxed_kernel, value))
    return quantized(layer)


def initial(layer: Layer) -> dict[str, jax.Array]:
    """The leaves of an untrained layer: scales of the kernel from its values, those of the inputs NaN."""
    site = layer.site
    values = starting.from_values(site.weight_estimator, layer.kernel, site.weights)
    leaves = dict(zip(site.weight_names, values, strict=True))
    for name in input_leaves(layer):
        leaves[name] = jnp.float32(0 if name == "inputs_zero_point" else jnp.nan)  # NaN shows in every result
    leaves |= {"step": jnp.float32(0)} if site.has_step else {}
    return leaves | ({mark_of(site): mark_value(layer.kernel)} if leaves else {})


def observed(layer: Layer, call: Thunk) -> Any:
    """Add the input to the layer's statistics, where its scale is a constant; the model runs in float."""
    _need_master("observe", layer)
    if layer.site.static and takes_codes(layer):
        stats = layer.module.get_variable("params", STATS)
        stats = observers.init(layer.site) if stats is None else stats
        x = jnp.asarray(layer.x)
        seen = layers.real(x, {"dtype": own_dtypes(layer).result(x)})
        layer.put(STATS, shared(observers.update)(stats, layer.kernel, seen))
    return call()


def calibrated(layer: Layer, call: Thunk) -> Any:
    """Put the input scale that follows from the layer's statistics.

    Raises:
      ValueError: there are none, or they have seen no data, or the kernel is converted.
    """
    _need_master("calibrate", layer)
    if layer.site.static and takes_codes(layer):
        stats = layer.module.get_variable("params", STATS)
        found = observers.finalize(stats, layer.site, path=layer.path)
        for name in input_leaves(layer):  # all of them, where prepare did not know that a table attends
            value = found.get(name, jnp.float32(0))
            layer.put(name, boxed_like(layer.boxed_kernel, value.astype(jnp.float32)))
        layer.put(mark_of(layer.site), boxed_like(layer.boxed_kernel, mark_value(layer.kernel)))
    return call()


def converted(layer: Layer, call: Thunk) -> Any:
    """Put the kernel's codes and the constants of the inputs under names of their own, so that the run goes on.

    Raises:
      ValueError: a leaf that the recipe needs beside the kernel is missing.
    """
    box, state = layer.boxed_kernel, state_of(layer)
    if isinstance(box, QTensor):
        return quantized(layer)
    check_leaves(layer)
    weight = layers.frozen_weight(layer.site, layer.kernel, state)
    layer.put(CONVERTED + layer.kind.kernel, boxed_codes(box, weight))
    param = own_dtypes(layer).param
    if param != layer.module.param_dtype:
        layer.put(CONVERTED + "kernel_dtype", boxed_like(box, jnp.zeros((), param)))
    if layer.given is not None:
        layer.put(CONVERTED + "bias", layer.given[1])
    layer.put(CONVERTED + mark_of(layers.frozen_site(layer.site)), boxed_like(box, mark_value(layer.kernel)))
    if takes_codes(layer):
        for name, value in layers.frozen_inputs(layer.site, state).items():
            layer.put(CONVERTED + name, boxed_like(box, value))
    return quantized(layer)


def explained(layer: Layer, call: Thunk) -> Any:
    """Add the layer's error against its float self on the same input, its clipped share and its codes."""
    _need_master("explain", layer)
    site, y = layer.site, quantized(layer)

    def added(before: measures.Measures, kernel: Any, state: Any, x: Any, y: Any, plain: Any) -> measures.Measures:
        return measures.add(before, measures.measure(site, kernel, state, x, y, plain))

    before = layer.module.get_variable("params", EXPLAINED)
    before = measures.nothing(site) if before is None else before
    given = (layer.kernel, state_of(layer), jnp.asarray(layer.x), y, call())
    layer.put(EXPLAINED, shared(added)(before, layer.kernel, *given))
    return y


def attended(module: nn.Module, put: Callable[[Path], None], product: str, sums: measures.Measures) -> None:
    """Add what a product of an attention lost, as `explained` does for a layer.

    Args:
      module: the attention, bound to its scope.
      put: told the path of the leaf.
      product: its name.
      sums: of one call.
    """
    name, params = f"{EXPLAINED} {product}", module.variables["params"]
    before = params.get(name, measures.no_product())
    kernel = jax.tree.leaves(params["query"])[0]  # stacked by nn.vmap where the attention is
    module.put_variable("params", name, shared(measures.add)(before, kernel, sums))
    put((*module.path, name))


def told(found: measures.Explanations, layer: Layer, call: Thunk) -> Any:
    """As `prepared`, with what `explain` found put beside the kernel, as a leaf without arrays."""
    if (numbers := found.told(layer.path)) is not None:
        layer.put(EXPLAINED, numbers)
    return prepared(layer, call)


def awaited(layer: Layer, call: Thunk) -> Any:
    """Put statistics without data, where `observed` has no place for them yet."""
    if layer.site.static and takes_codes(layer) and not layer.module.has_variable("params", STATS):
        layer.put(STATS, observers.init(layer.site))
    return call()


def unexplained(layer: Layer, call: Thunk) -> Any:
    """Put sums of nothing, where `explained` has no place for them yet."""
    _need_master("explain", layer)
    layer.put(EXPLAINED, measures.nothing(layer.site))
    return call()


#: What is done outside for a layer inside nn.cond or nn.switch: all of it, or what data need a place for.
BRANCHED = {
    prepared: prepared, calibrated: calibrated, converted: converted, observed: awaited, explained: unexplained,
}  # fmt: skip


def shared(update: Callable[..., Any]) -> Callable[..., Any]:
    """An update of sums by nn.vmap's lanes: each has its own where it has its own kernel, else they count one by one.

    Args:
      update: a function of the sums and of what is added to them.
    Returns:
      A function of the sums, of the layer's kernel, and of what is added.
    """

    @jax.custom_batching.custom_vmap
    def once(sums: Any, kernel: Any, *added: Any) -> Any:
        return update(sums, *added)

    @once.def_vmap
    def lanes(size: int, batched: Any, sums: Any, kernel: Any, *added: Any) -> Any:
        own, stacked, *others = batched
        if stacked or any(jax.tree.leaves(own)):
            axes = jax.tree.map(lambda b: 0 if b else None, tuple(batched))
            y = jax.vmap(lambda s, _, *a: update(s, *a), in_axes=axes, axis_size=size)(sums, kernel, *added)
            return y, jax.tree.map(lambda _: True, y)

        def step(sums: Any, lane: jax.Array) -> tuple[Any, None]:
            picked = jax.tree.map(lambda v, b: v[lane] if b else v, added, tuple(others))
            return once(sums, kernel, *picked), None

        y, _ = jax.lax.scan(step, sums, jnp.arange(size))
        return y, jax.tree.map(lambda _: False, y)

    return once


def _need_master(function: str, layer: Layer) -> None:
    if isinstance(layer.boxed_kernel, QTensor):
        raise ValueError(f"{function}: {named(layer.path)} is converted, need the float parameters (codes are final)")
