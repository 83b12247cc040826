"""Layers inside nn.cond and nn.switch: what stands beside their kernels is put there before the branches part.

All branches have to hand back the same variables, and only one of them runs.  So a run that adds leaves does not add
them inside a branch: the layer waits until the module around the branches has been called, and is acted on there.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from flax.core import Scope

from jaxquant.flax.linen_calls import Call
from jaxquant.flax.linen_sites import Layer, Path
from jaxquant.flax.names import named

Act = Callable[[Layer, Callable[[], Any]], Any]


@dataclass
class Branches:
    """The layers of a run that stand inside branches.

    Attributes:
      waiting: those met since the last module outside of branches was called.
      met: whether there was any.
    """

    waiting: list[Layer] = field(default_factory=list)
    met: bool = False

    def leave(self, layer: Layer) -> None:
        """Called inside a branch.

        Raises:
          ValueError: a batch norm is folded into the layer.
        """
        if layer.given is not None:
            raise ValueError(
                f"{named(layer.path)}: fold inside nn.cond or nn.switch, need a rule without fold (the folded kernel "
                "exists in one branch only)"
            )
        self.waiting.append(layer)
        self.met = True

    def settle(self, scope: Scope, act: Act) -> None:
        """Act on the layers below a scope, on zeros for inputs; nothing happens while that scope is in a branch too."""
        if not self.waiting or inside():
            return
        mine = [layer for layer in self.waiting if layer.module.path[: len(scope.path)] == scope.path]
        self.waiting[:] = [layer for layer in self.waiting if layer not in mine]
        for layer in mine:
            call = Call(None, layer.args, layer.kwargs).unseen()
            module = layer.module.clone(parent=_below(scope, layer.module.path))
            act(replace(layer, module=module, args=call.args, kwargs=call.kwargs), lambda: None)


def inside() -> bool:
    """Whether a branch of Flax's cond or switch is being traced."""
    frame = inspect.currentframe()
    while frame is not None:
        if frame.f_code.co_name == "branch_wrapper" and frame.f_globals.get("__name__") == "flax.core.lift":
            return True
        frame = frame.f_back
    return False


def _below(scope: Scope, path: Path) -> Scope:
    for name in path[len(scope.path) :]:
        scope = scope.push(name, reuse=True)
    return scope
