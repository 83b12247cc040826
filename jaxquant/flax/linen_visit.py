"""Running a Linen model with its layers in other hands: the interceptor, and runs that only grow its parameters."""

from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass, field, replace
from functools import partial
from typing import Any

from flax import linen as nn
from flax.core import DenyList, Scope, apply, freeze

from jaxquant.flax import linen_branches
from jaxquant.flax.linen_attention import ATTENTIONS, attending, attention_place, attention_rows, attention_site
from jaxquant.flax.linen_calls import Call
from jaxquant.flax.linen_folding import Handoff, Handoffs
from jaxquant.flax.linen_refusals import plain_words
from jaxquant.flax.linen_sites import FLAG, KINDS, PLACE, Layer, Path, layer_at, left_alone, place_of, row_of, rule_of
from jaxquant.flax.linen_trees import Coverage, flat
from jaxquant.flax.recipe import Recipe
from jaxquant.flax.report import Row
from jaxquant.qtensor import QTensor

#: What becomes of a layer's call: given the layer and its own float operation.
Act = Callable[[Layer, Callable[[], Any]], Any]


@dataclass
class Visitor:
    """Sees every call of a method in one model's run; whatever else runs meanwhile is left alone.

    Attributes:
      token: marks the scopes of this model's run.
      coverage: what it came across.
      cells: recurrent cells that are running.
      everywhere: whether to take the modules whose scopes have no mark too.
      handoffs: layers that wait for the batch norms folded into them.
      branched: what becomes of a layer inside nn.cond and nn.switch, before the branches part; None: `act`, inside.
      branches: the layers there.
      capture: whose results are sown as intermediates: (module, method) -> bool; None: nothing.
    """

    token: str
    _: KW_ONLY
    coverage: Coverage = field(default_factory=Coverage)
    cells: int = 0
    everywhere: bool = False
    capture: Callable[[nn.Module, str], bool] | None = None
    handoffs: Handoffs = field(default_factory=Handoffs)
    branched: Act | None = None
    branches: linen_branches.Branches = field(default_factory=linen_branches.Branches)

    def __call__(self, call: Callable, args: tuple, kwargs: dict, context: nn.module.InterceptorContext) -> Any:
        """nn.intercept_methods calls this around every method of every module."""
        module = context.module
        if module.scope is None or not (self.everywhere or module.scope.flags.get(FLAG) == self.token):
            return call(*args, **kwargs)
        _mark_around(module, self.token)
        if module.name in (None, *module.path[-1:]):  # what nn.remat and nn.scan make runs in its parent's scope
            self.coverage.modules["/".join(module.path)] = module
        if module.is_initializing() and type(module) in KINDS:
            y = call(*args, **kwargs)  # the kernel comes into being here
            return self.intercept(lambda *args, **kwargs: y, args, kwargs, context)
        y = self.intercept(call, args, kwargs, context)
        self.settle(module.scope)
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

    def settle(self, scope: Scope) -> None:
        """Act on the layers that branches below a scope have left."""
        if self.branched is not None:
            self.branches.settle(scope, self.branched)

    def intercept(self, call: Callable, args: tuple, kwargs: dict, context: Any) -> Any:
        """One of these calls."""
        if not isinstance(context.module, nn.RNNCellBase):
            return self.visit(call, args, kwargs, context)
        self.cells += 1
        try:
            return call(*args, **kwargs)
        finally:
            self.cells -= 1

    def visit(self, call: Callable, args: tuple, kwargs: dict, context: Any) -> Any:
        """One that is not a recurrent cell's own."""
        return call(*args, **kwargs)


@dataclass
class Interceptor(Visitor):
    """Hands the layers of one model to `act`.

    Attributes:
      recipe: what to do with which layers.
      act: what becomes of a layer.
      in_float: whether the model runs in float meanwhile.
      products: given an attention, how it puts a leaf's path, a product's name and what it lost; None: not measured.
    """

    recipe: Recipe
    act: Act
    _: KW_ONLY
    in_float: bool = False
    products: Callable[..., None] | None = None

    def visit(self, call: Callable, args: tuple, kwargs: dict, context: Any) -> Any:
        """A layer, an attention, a batch norm that may be folded, or anything else."""
        module = context.module
        if type(module) in ATTENTIONS and context.method_name == "__call__" and not self.cells:
            return self._attention(module, lambda: call(*args, **kwargs))
        if type(module) is nn.BatchNorm and context.method_name == "__call__":
            given = self.handoffs.take(module, args[0] if args else None)
            if given is not None:
                self._folded(module, given)
                return self.handoffs.run(self._acted, given, module, call, args, kwargs)
        layer = self._layer(module, context.method_name, args, kwargs)
        return call(*args, **kwargs) if layer is None else self._run(layer, lambda: call(*args, **kwargs))

    def _run(self, layer: Layer, plain: Callable[[], Any]) -> Any:
        if layer.fold is None or self.in_float or layer.module.is_initializing():
            return self._acted(layer, plain)
        converted = isinstance(layer.boxed_kernel, QTensor)
        return self.handoffs.leave(layer, self._acted(layer, plain) if converted else plain())

    def _acted(self, layer: Layer, plain: Callable[[], Any]) -> Any:
        if self.branched is None or not linen_branches.inside():
            return self.act(layer, plain)
        self.branches.leave(layer)
        return plain()

    def _folded(self, norm: nn.Module, given: Handoff) -> None:
        path = "/".join(norm.path)
        self.coverage.rows[path] = Row(path, type(norm).__name__, "", "", f"folded into {given.layer.path!r}")

    def _attention(self, module: nn.Module, call: Callable[[], Any]) -> Any:
        path, site = "/".join(module.path), attention_site(self.recipe, module)
        self.coverage.places[f"{path} products"] = attention_place(module)
        self.coverage.rows.update(attention_rows(self.recipe, module, site))
        # Inside nn.cond and nn.switch all branches have to hand back the same leaves: there nothing is measured.
        measured = self.products is not None and not linen_branches.inside()
        note = partial(self.products, module, self.coverage.grown.add) if measured else None
        return attending(module, None if self.in_float else site, call, note)

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
            y = function(bound_to(model, scope), call.method)(*args, **kwargs)
            interceptor.settle(scope)
            return y

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
        variables = {**variables, **_changed(model, interceptor, variables, call)}
    leaves = flat(variables["params"])
    return {path: leaves[path] for path in sorted(interceptor.coverage.grown)}


def _changed(model: nn.Module, interceptor: Interceptor, variables: Any, call: Call) -> Any:
    """The collections after a run; where it met branches, after one that has places for what their layers see."""
    branched, options = interceptor.branched, {"mutable": DenyList("intermediates")}
    with plain_words():
        _, changed = run(model, interceptor, variables, call, **options)
        if branched is not interceptor.act and interceptor.branches.met:
            places = replace(interceptor, act=branched, products=None, token=f"{interceptor.token}: places")
            filled = replace(interceptor, branched=None, token=f"{interceptor.token}: filled")
            for one in (places, filled):
                _, changed = run(model, one, variables, call, **options)
                variables = {**variables, "params": changed["params"]}
        return changed
