"""Running a Linen model with its layers in other hands: the interceptor, and runs that only grow its parameters."""

from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.core import DenyList, Scope, apply, freeze

from jaxquant.flax.linen_attention import ATTENTIONS, attending, attention_place, attention_rows, attention_site
from jaxquant.flax.linen_folding import Handoff, Handoffs
from jaxquant.flax.linen_refusals import plain_words
from jaxquant.flax.linen_sites import FLAG, KINDS, PLACE, Layer, Path, layer_at, left_alone, place_of, row_of, rule_of
from jaxquant.flax.linen_trees import Coverage, flat
from jaxquant.flax.recipe import Recipe
from jaxquant.flax.report import Row
from jaxquant.qtensor import QTensor

#: What becomes of a layer's call: given the layer and its own float operation.
Act = Callable[[Layer, Callable[[], Any]], Any]

#: nn.Dropout in a run whose values nobody sees.
UNSEEN_RNGS = ("dropout",)


@dataclass
class Interceptor:
    """Hands the layers of one model to `act`; whatever else runs meanwhile is left alone.

    Attributes:
      recipe: what to do with which layers.
      token: marks the scopes of this model's run.
      act: what becomes of a layer.
      coverage: what it came across.
      cells: recurrent cells that are running.
      in_float: whether the model runs in float meanwhile.
      everywhere: whether to take the modules whose scopes have no mark too.
      handoffs: layers that wait for the batch norms folded into them.
      capture: whose results are sown as intermediates: (module, method) -> bool; None: nothing.
    """

    recipe: Recipe
    token: str
    act: Act
    coverage: Coverage = field(default_factory=Coverage)
    cells: int = 0
    in_float: bool = False
    everywhere: bool = False
    capture: Callable[[nn.Module, str], bool] | None = None
    handoffs: Handoffs = field(default_factory=Handoffs)

    def __call__(self, call: Callable, args: tuple, kwargs: dict, context: nn.module.InterceptorContext) -> Any:
        """nn.intercept_methods calls this around every method of every module."""
        module = context.module
        if module.scope is None or not (self.everywhere or module.scope.flags.get(FLAG) == self.token):
            return call(*args, **kwargs)
        _mark_around(module, self.token)
        self.coverage.modules["/".join(module.path)] = module
        if module.is_initializing() and type(module) in KINDS:
            y = call(*args, **kwargs)  # the kernel comes into being here
            return self._intercept(lambda *args, **kwargs: y, args, kwargs, context)
        y = self._intercept(call, args, kwargs, context)
        if self.capture is not None and self.capture(module, context.method_name):
            module.sow("intermediates", context.method_name, y)
        return y

    @contextmanager
    def running(self) -> Any:
        """Around one run: what a layer leaves for a norm is taken within it, and never seen by the next one.

        Raises:
          ValueError: a layer's norm was not called.
        """
        handoffs = replace(self.handoffs, waiting={})
        with nn.intercept_methods(replace(self, handoffs=handoffs)):
            yield
        handoffs.check()

    def _intercept(self, call: Callable, args: tuple, kwargs: dict, context: Any) -> Any:
        module = context.module
        if isinstance(module, nn.RNNCellBase):
            with self._cell():
                return call(*args, **kwargs)
        if type(module) in ATTENTIONS and context.method_name == "__call__" and not self.cells:
            return self._attention(module, lambda: call(*args, **kwargs))
        if type(module) is nn.BatchNorm and context.method_name == "__call__":
            given = self.handoffs.take(module, args[0] if args else None)
            if given is not None:
                self._folded(module, given)
                return self.handoffs.run(self.act, given, module, call, args, kwargs)
        layer = self._layer(module, context.method_name, args, kwargs)
        return call(*args, **kwargs) if layer is None else self._run(layer, lambda: call(*args, **kwargs))

    def _run(self, layer: Layer, plain: Callable[[], Any]) -> Any:
        if layer.fold is None or self.in_float or layer.module.is_initializing():
            return self.act(layer, plain)
        converted = isinstance(layer.boxed_kernel, QTensor)
        return self.handoffs.leave(layer, self.act(layer, plain) if converted else plain())

    def _folded(self, norm: nn.Module, given: Handoff) -> None:
        path = "/".join(norm.path)
        self.coverage.rows[path] = Row(path, type(norm).__name__, "", "", f"folded into {given.layer.path!r}")

    def _attention(self, module: nn.Module, call: Callable[[], Any]) -> Any:
        path, site = "/".join(module.path), attention_site(self.recipe, module)
        self.coverage.places[f"{path} products"] = attention_place(module)
        self.coverage.rows.update(attention_rows(self.recipe, module, site))
        return attending(module, None if self.in_float else site, call)

    def _layer(self, module: nn.Module, method: str, args: tuple, kwargs: dict) -> Layer | None:
        path = "/".join(module.path)
        if self.cells:
            self.coverage.reasons[path] = "inside a recurrent cell: left alone"
            return None
        if type(module) not in KINDS or method not in KINDS[type(module)].methods:
            return None
        if left_alone(module):
            return None
        self.coverage.places[path] = place_of(module)
        why = self.recipe.why(rule_of(self.recipe, module))
        layer = layer_at(self.recipe, module, method, args, kwargs, self.coverage.grown.add)
        if layer is None:
            self.coverage.reasons[path] = why
        elif path not in self.coverage.rows or method == "attend":
            self.coverage.rows[path] = row_of(layer, why)
        return layer

    @contextmanager
    def _cell(self) -> Any:
        self.cells += 1
        try:
            yield
        finally:
            self.cells -= 1


@dataclass(frozen=True)
class Call:
    """One call of a model: its method, what it is given, and the collections beside the parameters.

    Attributes:
      method: None is "__call__".
      args: arrays, ShapeDtypeStructs, or static values.
      kwargs: likewise.
      rngs: keys by name, or one key.
    """

    method: str | None = None
    args: tuple = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    rngs: Any = None

    def abstract(self) -> "Call":
        """The same with shapes instead of arrays."""
        names = self.rngs if isinstance(self.rngs, Mapping) else {} if self.rngs is None else {"params": None}
        return replace(self, args=_shapes(self.args), kwargs=_shapes(dict(self.kwargs)), rngs=dict.fromkeys(names))

    def unseen(self) -> "Call":
        """The same with zeros, for runs of which only the parameters are wanted."""
        call = self.abstract()
        rngs = {name: jax.random.key(0) for name in (*call.rngs, *UNSEEN_RNGS)}
        return replace(call, args=_zeros(call.args), kwargs=_zeros(call.kwargs), rngs=rngs)


@dataclass(frozen=True)
class Frame:
    """All of a call but its arrays; hashable.

    Attributes:
      method: as in Call.
      tree: of args, kwargs and rngs.
      static: the leaves that are no arrays, None at an array's place.
    """

    method: str | None
    tree: Any
    static: tuple

    def call(self, arrays: list) -> Call:
        """The call with its arrays."""
        rest = iter(arrays)
        leaves = [next(rest) if leaf is None else leaf for leaf in self.static]
        args, kwargs, rngs = jax.tree.unflatten(self.tree, leaves)
        return Call(self.method, args, kwargs, rngs)


def framed(call: Call) -> tuple[Frame, list]:
    """A call as what is static in it, and its arrays."""
    leaves, tree = jax.tree.flatten((call.args, dict(call.kwargs), call.rngs))
    static = tuple(None if _is_array(leaf) else leaf for leaf in leaves)
    return Frame(call.method, tree, static), [leaf for leaf in leaves if _is_array(leaf)]


def mark(scope: Scope, token: str) -> None:
    """Give a scope, and those that it will push, the flags by which nn.jit tells traces apart.

    Flax does not call interceptors around a compiled method, only inside it: the flags must stand there before.
    """
    scope.flags = freeze({**scope.flags, FLAG: token, PLACE: "/".join(scope.path)})
    if "push" in vars(scope):
        return
    push = scope.push

    def marked(*args: Any, **kwargs: Any) -> Scope:
        child = push(*args, **kwargs)
        mark(child, token)
        return child

    scope.push = marked


def _mark_around(module: nn.Module, token: str) -> None:
    """Mark the scope of a module, and those that its setup has pushed already."""
    mark(module.scope, token)
    for child in module._state.children.values():
        if isinstance(child, nn.Module) and child.scope is not None:
            mark(child.scope, token)


def bound_to(model: nn.Module, scope: Scope) -> nn.Module:
    """A copy of the model in a scope, its submodules in the scopes below."""
    return model.clone(parent=scope, _deep_clone=True)


def function(bound: nn.Module, method: Any) -> Callable:
    """The bound method that a name, an unbound method or None stands for."""
    if method is None:
        return bound
    if isinstance(method, str):
        return getattr(bound, method)
    unbound = getattr(method, "__func__", method)
    return lambda *args, **kwargs: unbound(bound, *args, **kwargs)


def run(model: nn.Module, interceptor: Interceptor, variables: Any, call: Call, *, mutable: Any = False) -> Any:
    """One apply of the model under the interceptor.

    The token is a flag of the root scope: every scope below inherits it, and nn.jit keeps traces of other flags apart.
    """

    def scoped(scope: Scope, args: tuple, kwargs: Mapping[str, Any]) -> Any:
        with interceptor.running():
            mark(scope, interceptor.token)
            return function(bound_to(model, scope), call.method)(*args, **kwargs)

    applied = apply(scoped, mutable=mutable, flags={FLAG: interceptor.token})
    return applied(variables, call.args, call.kwargs, rngs=call.rngs)


def grown(model: nn.Module, interceptor: Interceptor, variables: Any, calls: tuple[Call, ...]) -> dict[Path, Any]:
    """What the interceptor puts beside the kernels of a model while it runs.

    Args:
      model: the float model.
      interceptor: one whose `act` puts leaves.
      variables: "params" and other collections.
      calls: what to run, one after the other.
    Returns:
      The leaves by path, stacked where the model's transforms stack their kernels.
    """
    variables = dict(variables)
    for call in calls:
        with plain_words():
            _, changed = run(model, interceptor, variables, call, mutable=DenyList("intermediates"))
        variables = {**variables, **changed}
    leaves = flat(variables["params"])
    return {path: leaves[path] for path in sorted(interceptor.coverage.grown)}


def _is_array(leaf: Any) -> bool:
    return hasattr(leaf, "shape") and hasattr(leaf, "dtype")


def _shapes(tree: Any) -> Any:
    return jax.tree.map(lambda v: jax.ShapeDtypeStruct(v.shape, v.dtype) if _is_array(v) else v, tree)


def _zeros(tree: Any) -> Any:
    def zero(leaf: Any) -> Any:
        if not _is_array(leaf):
            return leaf
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jnp.broadcast_to(jax.random.key(0), leaf.shape)
        return jnp.zeros(leaf.shape, leaf.dtype)

    return jax.tree.map(zero, tree)
