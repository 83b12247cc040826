"""A Linen model whose layers run on codes: the wrapper that is used as the model itself is."""

import itertools
import weakref
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
from flax import linen as nn
from flax.core import bind
from flax.core.scope import union_filters

from jaxquant.flax.linen_acts import BRANCHED, attended, explained, prepared, told
from jaxquant.flax.linen_calls import Call
from jaxquant.flax.linen_folding import Handoffs
from jaxquant.flax.linen_layers import quantized
from jaxquant.flax.linen_sites import FLAG
from jaxquant.flax.linen_trees import merged
from jaxquant.flax.linen_visit import Act, Interceptor, bound_to, grown, mark, run
from jaxquant.flax.measures import Explanations
from jaxquant.flax.recipe import Recipe

#: A number for every run, and the number of every recipe that is alive: what nn.jit tells their traces apart by.
_RUNS = itertools.count()
_RECIPES: weakref.WeakKeyDictionary[Recipe, int] = weakref.WeakKeyDictionary()


@dataclass(frozen=True)
class Quantized:
    """A Linen model whose layers run on codes by a recipe; used as the model itself is.

    The model is neither copied nor changed: layers are intercepted inside this wrapper's own calls, so that
    `jax.jit(qmodel.apply)` is right, and models of one process never see each other.

    Attributes:
      model: any Linen module.
      recipe: what its layers do.

    Raises:
      TypeError: no Linen module, or no recipe.
    """

    model: nn.Module
    recipe: Recipe
    #: The shapes that each method was last called with; what is not asked again by convert and calibrate.
    seen: dict[str | None, Call] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.model, nn.Module):
            raise TypeError(f"Quantized: model is a {type(self.model).__name__}, need a Linen module")
        if not isinstance(self.recipe, Recipe):
            raise TypeError(f"Quantized: recipe is a {type(self.recipe).__name__}, need a Recipe")

    def init(self, rngs: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """The float model's own variables, and beside its kernels what the recipe needs (as by `prepare`).

        Args:
          rngs: a key, or keys by name.
          *args: of the model.
          **kwargs: likewise.
        """
        variables = self.model.init(rngs, *args, **kwargs)
        call = Call(kwargs.pop("method", None), args, kwargs, rngs)
        # With the parameters alone this is a first run again: a cache that stands there asks for one token a call.
        first = {"params": variables["params"]}
        leaves = grown(self.model, self.interceptor(prepared), first, (call.unseen(),))
        self.remember(call)
        return {**variables, "params": merged(variables["params"], leaves)}

    def apply(
        self,
        variables: Mapping[str, Any],
        *args: Any,
        rngs: Any = None,
        method: Any = None,
        mutable: Any = False,
        capture_intermediates: Any = False,
        **kwargs: Any,
    ) -> Any:
        """As nn.Module.apply, on codes.

        Args:
          variables: "params" as `prepare` or `convert` gives them, and the other collections.
          *args: of the method.
          rngs: a key, or keys by name.
          method: its name or itself; None is `__call__`.
          mutable: which collections come back changed.
          capture_intermediates: as in nn.Module.apply.
          **kwargs: of the method.
        Returns:
          What the method returns; with `mutable`, (that, changed collections).
        Raises:
          ValueError: the parameters are those of another recipe, or not prepared.
        """
        call = Call(method, args, kwargs, rngs)
        if capture_intermediates:
            mutable = union_filters(mutable, "intermediates")
        capture = _calls if capture_intermediates is True else capture_intermediates or None
        result = run(self.model, self.interceptor(quantized, capture=capture), variables, call, mutable=mutable)
        self.remember(call, replace=False)
        return result

    def bind(self, variables: Mapping[str, Any], *, rngs: Any = None, mutable: Any = False) -> "Bound":
        """The model with its variables, whose methods and submodules run on codes."""
        interceptor = self.interceptor(quantized)
        scope = bind(variables, rngs=rngs, mutable=mutable, flags={FLAG: interceptor.token})
        mark(scope, interceptor.token)
        return Bound(bound_to(self.model, scope), interceptor)

    def tabulate(self, rngs: Any, *args: Any, explained: Explanations | None = None, **options: Any) -> str:
        """Flax's table of the model with the leaves that training adds, and the report of what each layer does.

        Args:
          rngs: a key, or keys by name.
          *args: of the model.
          explained: from `explain`: what it found stands beside the kernels.
          **options: of nn.tabulate and of the model.
        Returns:
          Both as text.
        """
        act = prepared if explained is None else partial(told, explained)
        interceptor = Interceptor(_token(self.recipe, prepared), self.recipe, act, everywhere=True)
        with nn.intercept_methods(interceptor):
            text = nn.tabulate(self.model, rngs, **options)(*args)
        shapes = jax.eval_shape(lambda: self.model.init(rngs, *args))["params"]
        return f"{text}\n{interceptor.coverage.check(self.recipe, shapes)}\n"

    def interceptor(self, act: Act, **options: Any) -> Interceptor:
        """A new interceptor for one run of this model."""
        freeze = None if self.recipe.schedule is None else self.recipe.schedule.freeze_batch_norm
        handoffs = Handoffs(act is quantized, freeze)
        token, branched = _token(self.recipe, act), BRANCHED.get(act)
        options["products"] = attended if act is explained else None
        return Interceptor(token, self.recipe, act, handoffs=handoffs, branched=branched, **options)

    def remember(self, call: Call, *, replace: bool = True) -> None:
        """Keep the shapes of a call, so that later functions need not be told them."""
        if replace or call.method not in self.seen:
            self.seen[call.method] = call.abstract()

    @contextmanager
    def remembering(self) -> Any:
        """Around a function that remembers calls before it runs them: where it fails they are forgotten again."""
        before = dict(self.seen)
        try:
            yield
        except BaseException:
            self.seen.clear()
            self.seen.update(before)
            raise


def fresh_token(name: str) -> str:
    """What marks a run of its own.  The number is never given twice, where an address or a repr might be."""
    return f"{name} {next(_RUNS)}"


def _token(recipe: Recipe, act: Act) -> str:
    """What marks a run by a recipe: equal recipes the same, so that compiled parts stay; new where leaves are put."""
    if act is not quantized:
        return fresh_token(act.__name__)
    return f"{act.__name__} by recipe {_RECIPES.setdefault(recipe, next(_RUNS))}"


def _calls(module: nn.Module, method: str) -> bool:
    return method == "__call__"


class Bound:
    """A bound model, or a submodule of one; each call of a method is a run on codes of its own."""

    def __init__(self, module: nn.Module, interceptor: Interceptor):
        """Takes a bound module."""
        self._module, self._interceptor = module, interceptor

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The module's `__call__`."""
        with self._interceptor.running():
            return self._module(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        """A method or submodule that runs on codes, also in a list or dict; any other attribute as it is."""
        value = getattr(self._module, name)
        if isinstance(value, nn.Module | tuple | list | Mapping):
            return jax.tree.map(lambda v: Bound(v, self._interceptor) if isinstance(v, nn.Module) else v, value)
        if not callable(value) or getattr(value, "__self__", None) is not self._module:
            return value

        def method(*args: Any, **kwargs: Any) -> Any:
            with self._interceptor.running():
                return value(*args, **kwargs)

        return method
