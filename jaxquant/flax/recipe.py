"""A recipe: an ordered list of rules, frozen, hashable, printable as JSON; the first rule that matches wins."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from jaxquant.flax import recipe_json
from jaxquant.flax.names import nearest
from jaxquant.flax.rule import Rule


@dataclass(frozen=True)
class Schedule:
    """When quantization starts and what stops training, in steps counted by `advance`.

    Attributes:
      start: the first step that quantizes; before it the layers are their float selves.
      freeze_scales: the first step at which learned scales get no gradient; None: never.  An optimizer with momentum
        (Adam) moves them on by what it remembers: set the learning rate of the group "scales" to 0 from that step on.
      freeze_batch_norm: the first step at which folded batch norms use their running statistics; None: never.

    Raises:
      ValueError: a negative step, or no int; scales frozen before they are used.
    """

    start: int = 0
    freeze_scales: int | None = None
    freeze_batch_norm: int | None = None

    def __post_init__(self) -> None:
        for name in ("start", "freeze_scales", "freeze_batch_norm"):
            value = getattr(self, name)
            if (value is not None or name == "start") and (type(value) is not int or not 0 <= value < 2**24):
                raise ValueError(
                    f"Schedule: {name} is {value!r}, need a step from 0 to 2**24 - 1 (a float32 counts them)"
                )
        if self.freeze_scales is not None and self.freeze_scales < self.start:
            raise ValueError(
                f"Schedule: freeze_scales is {self.freeze_scales} and start {self.start}, need start first (scales "
                "that are frozen before they are used learn nothing)"
            )


class Place(NamedTuple):
    """A module that rules can speak of.

    Attributes:
      path: parts joined by "/".
      module: what a predicate is given.
      attention: whether it is the products of an attention, instead of a layer with a kernel.
      covered: whether it can be quantized; else a rule can only keep it.
    """

    path: str
    module: Any
    attention: bool = False
    covered: bool = True


@dataclass(frozen=True, init=False)
class Recipe:
    """Rules in order; the first that matches a layer and speaks of its kind decides.

    Attributes:
      rules: at least one.
      schedule: None: quantized from the first step on, everything trained.
    """

    rules: tuple[Rule, ...]
    schedule: Schedule | None

    def __init__(self, *rules: Rule, schedule: Schedule | None = None):
        """A recipe of the rules in that order.

        Raises:
          TypeError: something else than a Rule or a Schedule.
          ValueError: no rule; or a schedule with a later start beside a rule with attention, or that freezes batch
            norms where no rule folds one.
        """
        if not rules:
            raise ValueError("Recipe: no rule, need at least one (a recipe that does nothing is a mistake)")
        for rule in rules:
            if not isinstance(rule, Rule):
                raise TypeError(f"Recipe: {rule!r} is a {type(rule).__name__}, need a Rule")
        if not isinstance(schedule, Schedule | None):
            raise TypeError(f"Recipe: schedule is {schedule!r}, need a Schedule or None")
        started = [rule.label for rule in rules if rule.attention is not None]
        if schedule is not None and schedule.start and started:
            raise ValueError(
                f"Recipe: rule {started[0]} has attention and schedule.start is {schedule.start}, need start=0 or no "
                "attention (the products have no step of their own: they would be quantized from the first step on)"
            )
        if schedule is not None and schedule.freeze_batch_norm is not None and not any(rule.fold for rule in rules):
            raise ValueError(
                f"Recipe: schedule.freeze_batch_norm is {schedule.freeze_batch_norm} and no rule has fold, need a rule "
                "that folds the norm, or None (a norm that is not folded is the model's own: it would train on)"
            )
        object.__setattr__(self, "rules", tuple(rules))
        object.__setattr__(self, "schedule", schedule)

    @property
    def start(self) -> int:
        """The first step that quantizes."""
        return self.schedule.start if self.schedule else 0

    def rule_for(self, place: Place) -> Rule | None:
        """The rule that decides about a module, None where no rule speaks of it."""
        return next((rule for rule in self.rules if _speaks(rule, place)), None)

    def why(self, rule: Rule | None) -> str:
        """The reason in a report."""
        if rule is None:
            return "no rule"
        number = f"rule {self.rules.index(rule) + 1}: {rule.label}"
        return number if rule.keep is None else f"kept ({number}): {rule.keep}"

    def check(self, places: Iterable[Place]) -> None:
        """Refuse rules that decide about nothing.

        Args:
          places: every module of the model that a rule can speak of.
        Raises:
          ValueError: a rule matches no layer (the message has the nearest), or only layers that earlier rules have
            taken and treat in another way.
        """
        places = list(places)
        for index, rule in enumerate(self.rules):
            mine = [place for place in places if _speaks(rule, place)]
            if not mine:
                raise ValueError(self._unmatched(rule, places))
            takers = [(place, self.rule_for(place)) for place in mine]
            others = [
                (place, taker) for place, taker in takers if taker is not rule and not _says_the_same(taker, rule)
            ]
            if all(taker in self.rules[:index] for _, taker in takers) and others:
                place, taker = others[0]
                raise ValueError(
                    f"Recipe: rule {index + 1} ({rule.label}) contradicts rule {self.rules.index(taker) + 1} "
                    f"({taker.label}), which takes {place.path or '.'!r} and every other layer of it first; need the "
                    "narrower rule first (the first match wins)"
                )

    def _unmatched(self, rule: Rule, places: list[Place]) -> str:
        kinds = {True: "attentions", False: "layers"}[rule.attention is not None and rule.weights is None]
        paths = [p.path for p in places if p.covered and p.attention == (kinds == "attentions")]
        near = nearest(rule.where, paths) if isinstance(rule.where, str) else paths[:3]
        there = f"nearest {kinds}: {', '.join(map(repr, near))}" if near else f"the model has no {kinds} to quantize"
        found = [p.path for p in places if not p.covered and p.path and rule.matches(p.path, p.module)]
        only = f"only {found[0]!r}, which has no integer form here" if found else "nothing"
        return f"Recipe: rule {rule.label} matches {only}, need the path of a layer ({there})"

    def to_json(self) -> str:
        """The recipe as JSON; predicates by "module:function".

        Raises:
          ValueError: a predicate that no import finds (a lambda, a nested function).
        """
        return recipe_json.dumps(self.rules, self.schedule)

    @classmethod
    def from_json(cls, text: str) -> "Recipe":
        """The recipe of a JSON text; `from_json(r.to_json()) == r`.  Predicates are imported, so trust the text.

        Raises:
          ValueError: not such a text; the message names the part.
        """
        rules, schedule = recipe_json.loads(text)
        return cls(*rules, schedule=None if schedule is None else Schedule(**schedule))


def _speaks(rule: Rule, place: Place) -> bool:
    if rule.keep is None and not place.covered:
        return False
    return rule.speaks_of(place.attention) and rule.matches(place.path, place.module)


def _says_the_same(a: Rule, b: Rule) -> bool:
    names = [name for name in a.__dataclass_fields__ if name not in ("where", "_")]
    return all(getattr(a, name) == getattr(b, name) for name in names)
