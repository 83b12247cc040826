"""One rule of a recipe: which layers, and what to do with their weights and inputs."""

import re
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal

from refquant.estimators import Estimator, Lsq, LsqPlus, Pact, Ste
from refquant.formats import IntFormat
from refquant.granularity import PerTensor, PerToken
from refquant.options import told
from refquant.schemes import TensorScheme, parse_tensor
from refquant.spec import QuantSpec

Where = str | Callable[[str, Any], bool]
Quantizer = str | TensorScheme | QuantSpec
CALIBRATIONS = ("minmax", "ema", "percentile", "mse", "entropy")
TEXTS = {
    "keep": "the reason why the layers stay in float",
    "calibration": "minmax, ema:0.01 or the like",
    "fold": "the name of a batch norm",
}


@dataclass(frozen=True)
class Rule:
    """What to do with the layers that `where` picks.

    Attributes:
      where: a pattern over the path of a module, its parts joined by "/" ("*" within a part, "**" any number of parts,
        "?" one character; the model itself has the path ""), or a predicate (path, module) -> bool.
      weights: how a kernel or table is quantized: text such as "int4:g32" (refquant.schemes), a TensorScheme, or a
        QuantSpec whose axes are those of the kernel.  "channel" is every axis of the kernel that is not summed, a
        group runs along the one summed axis.
      inputs: how the layer's input is quantized: "tensor" or "token" (one scale for all indices of axes that are not
        summed; an example in a convolution).  None: weights only.
      keep: the reason why such layers stay in float, instead of the two above.
      weight_estimator: the straight-through estimator of the weights.
      input_estimator: that of the inputs; a learned one has a static scale.
      input_scale: "dynamic": from each input's own range; "static": learned, or from calibration.
      calibration: how a static range follows from data: "minmax", "ema[:constant]" (a new batch's weight, to 1),
        "percentile[:millionths]" (500000 to 1000000), "mse", "entropy".
      attention: how both operands of QKᵀ and of PV are quantized where the rule picks an attention module; off
        unless given.
      fold: the name of the batch norm beside the layer that is folded into it.

    Raises:
      TypeError: a field of another kind.
      ValueError: options that say nothing, or that contradict each other.
    """

    where: Where
    _: KW_ONLY
    weights: Quantizer | None = None
    inputs: Quantizer | None = None
    keep: str | None = None
    weight_estimator: Estimator = Ste()
    input_estimator: Estimator = Ste()
    input_scale: Literal["dynamic", "static"] = "dynamic"
    calibration: str = "minmax"
    attention: Quantizer | None = None
    fold: str | None = None

    def __post_init__(self) -> None:
        for name in ("weights", "inputs", "attention"):
            value = getattr(self, name)
            if isinstance(value, str):
                object.__setattr__(self, name, _scheme(self, name, value))
            elif not isinstance(value, TensorScheme | QuantSpec | None):
                raise TypeError(
                    f"Rule {self.label}: {name} is {value!r}, need a scheme's text, TensorScheme or QuantSpec"
                )
        for name in ("weight_estimator", "input_estimator"):
            value = getattr(self, name)
            if not isinstance(value, Ste | Lsq | LsqPlus | Pact):
                raise TypeError(f"Rule {self.label}: {name} is {value!r}, need an estimator such as Ste() or Lsq()")
        _check_texts(self)
        if learned(self.input_estimator):
            object.__setattr__(self, "input_scale", "static")
        _check_says_something(self)
        _check_weights(self)
        for name in ("inputs", "attention"):
            _check_operand(self, name)
        _check_static(self)

    @property
    def label(self) -> str:
        """What an error calls the rule: its pattern, or the predicate's name."""
        return repr(self.where) if isinstance(self.where, str) else function_name(self.where)

    def matches(self, path: str, module: Any) -> bool:
        """Whether `where` picks the module at that path."""
        if isinstance(self.where, str):
            return pattern(self.where).fullmatch(path) is not None
        return bool(self.where(path, module))

    def speaks_of(self, attention: bool) -> bool:
        """Whether the rule says anything about a layer with a kernel, or about products of attention."""
        return self.keep is not None or (self.attention if attention else self.weights) is not None


def learned(estimator: Estimator) -> bool:
    """Whether an estimator has parameters of its own."""
    return isinstance(estimator, Lsq | LsqPlus | Pact)


def pattern(where: str) -> re.Pattern[str]:
    """The regular expression of a pattern over paths."""
    if where == "**":
        return re.compile(".*", re.DOTALL)
    text = ""
    for word in re.split(r"(^\*\*/|/\*\*/|/\*\*$|\*|\?)", where):
        special = {"**/": "(?:.*/)?", "/**/": "/(?:.*/)?", "/**": "(?:/.*)?", "*": "[^/]*", "?": "[^/]"}
        text += special.get(word, re.escape(word))
    return re.compile(text, re.DOTALL)


def function_name(function: Callable) -> str:
    """A function as "module:name"."""
    return f"{getattr(function, '__module__', '?')}:{getattr(function, '__qualname__', repr(function))}"


def _scheme(rule: Rule, name: str, text: str) -> TensorScheme:
    """One side of a scheme; an input's text without a grain is one scale a token, as in refquant.schemes' "w8a8"."""
    if "=" in text or re.fullmatch(r"w\d+a\d+(:.*)?", text):
        raise ValueError(
            f"Rule {rule.label}: {name} is {text!r}, a whole scheme, need one side of it: weights='int4:g32', "
            "inputs='int8:token'"
        )
    try:
        return parse_tensor(text if ":" in text or name == "weights" else f"{text}:token")
    except ValueError as error:
        raise ValueError(f"Rule {rule.label}: {name}: {error}") from error


def _check_texts(rule: Rule) -> None:
    if not isinstance(rule.where, str) and not callable(rule.where):
        raise TypeError(f"Rule: where is {rule.where!r}, need a pattern or a predicate (path, module) -> bool")
    for name, need in TEXTS.items():
        value = getattr(rule, name)
        if not isinstance(value, str) and (value is not None or name == "calibration"):
            raise TypeError(f"Rule {rule.label}: {name} is {told(value)}, need a text: {need}")


def _check_says_something(rule: Rule) -> None:
    says = rule.weights is not None or rule.attention is not None
    if rule.keep is not None and (says or rule.inputs is not None or not rule.keep):
        raise ValueError(
            f"Rule {rule.label}: keep is {rule.keep!r} beside weights, inputs or attention, need a reason alone "
            "(a kept layer stays in float)"
        )
    if rule.keep is None and rule.inputs is not None and rule.weights is None:
        raise ValueError(f"Rule {rule.label}: inputs without weights, need both (a product has codes on both sides)")
    if rule.keep is None and not says:
        raise ValueError(f"Rule {rule.label}: says nothing, need weights, attention or keep='the reason'")


def _check_weights(rule: Rule) -> None:
    weights, estimator = rule.weights, rule.weight_estimator
    if weights is None:
        return
    grain = weights.grain if isinstance(weights, TensorScheme) else weights.granularity
    if grain == "token" or isinstance(grain, PerToken):
        raise ValueError(
            f"Rule {rule.label}: weights are per token, need tensor, channel, gN or bRxC (inputs have tokens)"
        )
    if rule.inputs is not None:
        _need_integers(rule, "weights", weights, "(or inputs=None: weights only)")
    _check_estimator(rule, "weights", weights, estimator)
    if isinstance(estimator, Pact):
        raise ValueError(
            f"Rule {rule.label}: weight_estimator is Pact, need Ste, Lsq or LsqPlus (its range is 0..alpha)"
        )
    if learned(estimator) and not weights.fmt.signed:
        raise ValueError(
            f"Rule {rule.label}: {type(estimator).__name__} of weights with {weights.fmt.name}, need a signed format "
            "(it starts with codes around 0)"
        )


def _check_operand(rule: Rule, name: str) -> None:
    """Inputs, and operands of attention, are integers of one scale or one a token."""
    quantizer = getattr(rule, name)
    if quantizer is None:
        return
    _need_integers(rule, name, quantizer, "(float inputs: leave it None)")
    if isinstance(quantizer, TensorScheme) and quantizer.grain not in ("tensor", "token"):
        raise ValueError(
            f"Rule {rule.label}: {name} has grain {quantizer.grain!r}, need tensor or token (a scale that varies along "
            "the summed axis cannot leave the sum)"
        )
    if name == "inputs":
        _check_estimator(rule, name, quantizer, rule.input_estimator)


def _need_integers(rule: Rule, name: str, quantizer: TensorScheme | QuantSpec, otherwise: str) -> None:
    if not isinstance(quantizer.fmt, IntFormat) or quantizer.scale.zero == "float":
        raise ValueError(
            f"Rule {rule.label}: {name} has format {quantizer.fmt.name} with zero {quantizer.scale.zero!r}, need "
            f"integer codes and integer zero points on both sides {otherwise}"
        )


def _check_estimator(rule: Rule, name: str, quantizer: TensorScheme | QuantSpec, estimator: Estimator) -> None:
    kind, zero = type(estimator).__name__, quantizer.scale.zero
    if not learned(estimator):
        return
    if not isinstance(quantizer.fmt, IntFormat):
        raise ValueError(f"Rule {rule.label}: {kind} of {name} with format {quantizer.fmt.name}, need integer codes")
    if quantizer.scale.storage != "float32":
        raise ValueError(
            f"Rule {rule.label}: {kind} of {name} with scales in {quantizer.scale.storage}, need float32 (a learned "
            "scale is used as it is learned)"
        )
    if isinstance(estimator, Pact) and quantizer.fmt.signed:
        raise ValueError(
            f"Rule {rule.label}: Pact of {name} with {quantizer.fmt.name}, need an unsigned format (0..alpha)"
        )
    if isinstance(estimator, LsqPlus) and zero != "int":
        raise ValueError(f"Rule {rule.label}: LsqPlus of {name} with zero {zero!r}, need ':asym' (it learns an offset)")
    if isinstance(estimator, Lsq) and zero != "none" and quantizer.fmt.signed:
        raise ValueError(f"Rule {rule.label}: Lsq of {name} with zero {zero!r}, need a symmetric scale (or LsqPlus)")


def _check_static(rule: Rule) -> None:
    if rule.input_scale not in ("dynamic", "static"):
        raise ValueError(f"Rule {rule.label}: input_scale is {rule.input_scale!r}, need 'dynamic' or 'static'")
    _check_calibration(rule)
    if rule.input_scale == "dynamic":
        return
    if rule.inputs is None and rule.keep is None:
        raise ValueError(f"Rule {rule.label}: static input scales without inputs, need inputs (what is to be scaled)")
    grain = rule.inputs.grain if isinstance(rule.inputs, TensorScheme) else rule.inputs and rule.inputs.granularity
    if grain is not None and grain != "tensor" and grain != PerTensor():
        raise ValueError(
            f"Rule {rule.label}: static inputs with grain {grain!s}, need tensor (a static scale per token would fit "
            "one length and batch only)"
        )


def _check_calibration(rule: Rule) -> None:
    """By the bounds of the calibration (CAL-2, CAL-4), and no share below one half: such a number is no millionths."""
    name, colon, number = rule.calibration.partition(":")
    why = None
    if name not in CALIBRATIONS or (colon and name not in ("ema", "percentile")):
        why = f"{', '.join(CALIBRATIONS)}, ema:0.01 or percentile:999900"
    elif colon and name == "percentile" and not (re.fullmatch(r"\d+", number) and 500_000 <= int(number) <= 1_000_000):
        why = "a whole number of millionths from 500000 to 1000000: percentile:999000 covers 99.9 % of the inputs"
    elif colon and name == "ema" and not (_is_number(number) and 2.0**-20 <= float(number) <= 1):
        why = "the weight of a new batch, from 2**-20 to 1: ema:0.01"
    if why:
        raise ValueError(f"Rule {rule.label}: calibration is {rule.calibration!r}, need {why}")


def _is_number(text: str) -> bool:
    return re.fullmatch(r"\d+(\.\d+)?(e-?\d+)?", text) is not None
