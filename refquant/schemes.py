"""The scheme grammar: `int4:g32:sf16`, `int8:channel`, `w8a8:token`, `w=int4:g32,a=int8:token,e=int8:channel`.

TENSOR  = FORMAT [":" GRAIN] {":" OPTION}      GRAIN  = tensor | channel | token | gN | bRxC
SCHEME  = TENSOR                               (weights only; embedding tables left alone)
        | "w" BITS "a" BITS [":" GRAIN]        (shorthand: weights intN:channel, inputs intN of that grain)
        | KEY "=" TENSOR {"," KEY "=" TENSOR}  KEY = w (weights) | a (inputs) | e (embedding tables)
OPTION  = asym | fzero | half | pow2 | signed | sf16 | sbf16 | se4m3 | se8m0 | spow2

`e2m1fn:g32:se8m0` has the elements, the groups and the scale format of OCP MXFP4, not its scales: SCL-6 rounds max / 6
up to a power of two, OCP MX 1.0 (section 6.3) takes 2**(floor(log2(max)) - 2).  So of the other MX formats.
"""

import re
from dataclasses import dataclass, replace

from refquant import formats
from refquant.formats import Format
from refquant.granularity import Granularity, PerAxis, PerBlock, PerGroup, PerTensor, PerToken
from refquant.spec import QuantSpec, ScaleRule, check_scale_rule

OPTIONS = {
    "asym": {"zero": "int"},
    "fzero": {"zero": "float"},
    "half": {"denominator": "half_range"},
    "pow2": {"denominator": "pow2"},
    "signed": {"denominator": "signed_absmax"},
    "sf16": {"storage": "float16"},
    "sbf16": {"storage": "bfloat16"},
    "se4m3": {"storage": "e4m3fn"},
    "se8m0": {"storage": "e8m0fnu"},
    "spow2": {"storage": "pow2"},
}
GRAIN = re.compile(r"tensor|channel|token|g[1-9]\d*|b[1-9]\d*x[1-9]\d*")
SHORT = re.compile(r"w(\d+)a(\d+)(?::(\w+))?")
KEYS = {"w": "weights", "a": "inputs", "e": "embeddings"}


@dataclass(frozen=True)
class TensorScheme:
    """One tensor's part of a scheme, before the axes of a layer are known.

    Attributes:
      fmt: the format of the codes.
      grain: "tensor", "channel" (one scale an output channel), "token" (one a vector of inputs), "g32" (groups
        along the contracted axis), "b32x32" (blocks of the two trailing axes).
      scale: the scale rule.
    """

    fmt: Format
    grain: str = "channel"
    scale: ScaleRule = ScaleRule()

    def __str__(self) -> str:
        options = [name for name, fields in OPTIONS.items() for k, v in fields.items() if getattr(self.scale, k) == v]
        return ":".join([self.fmt.name, self.grain, *options])

    def spec(self, *, channel_axis: int | tuple[int, ...] = 0, group_axis: int = -1) -> QuantSpec:
        """The QuantSpec for a tensor whose output channels and contracted axis are given."""
        return QuantSpec(self.fmt, grain_granularity(self.grain, channel_axis, group_axis), self.scale)


@dataclass(frozen=True)
class Scheme:
    """What happens to a model's weights, the inputs of its layers, and its embedding tables; None: left in float."""

    weights: TensorScheme | None = None
    inputs: TensorScheme | None = None
    embeddings: TensorScheme | None = None

    def __str__(self) -> str:
        if self.weights and not self.inputs and not self.embeddings:
            return str(self.weights)
        return ",".join(f"{k}={v}" for k, name in KEYS.items() if (v := getattr(self, name)))


def grain_granularity(grain: str, channel_axis: int | tuple[int, ...], group_axis: int) -> Granularity:
    """The granularity a grain names, on the axes of one layer."""
    if grain == "tensor":
        return PerTensor()
    if grain == "channel":
        return PerAxis(channel_axis)
    if grain == "token":
        return PerToken()
    if grain[0] == "g":
        return PerGroup(group_axis, int(grain[1:]))
    return PerBlock(tuple(map(int, grain[1:].split("x"))))


def parse_tensor(text: str) -> TensorScheme:
    """`int4:g32:sf16` as a TensorScheme.

    Raises:
      ValueError: an unknown format, grain or option, an option given twice, or options that contradict.
    """
    if "=" in text or SHORT.fullmatch(text.strip()):
        raise ValueError(f"scheme {text!r} is a whole one, need the part of one tensor, as in 'int4:g32'")
    name, *rest = text.strip().split(":")
    scheme = TensorScheme(formats.get(name))
    fields: dict[str, str] = {}
    for position, word in enumerate(rest):
        if position == 0 and GRAIN.fullmatch(word):
            scheme = replace(scheme, grain=word)
            continue
        if word not in OPTIONS:
            raise ValueError(
                f"scheme {text!r}: {word!r} is neither a grain nor an option, need tensor, channel, token, gN or bRxC "
                f"right after the format, then any of {', '.join(OPTIONS)}"
            )
        (key, value), *_ = OPTIONS[word].items()
        if key in fields:
            raise ValueError(f"scheme {text!r}: {word!r} sets {key} a second time, need one of a kind")
        fields[key] = value
    rule = ScaleRule(**fields)  # type: ignore[arg-type]
    check_scale_rule(f"scheme {text!r}", scheme.fmt, rule)
    return replace(scheme, scale=rule)


def parse(text: str) -> Scheme:
    """A scheme from its text; `parse(str(scheme)) == scheme`.

    Raises:
      ValueError: the text is outside the grammar; the message names the part.
    """
    short = SHORT.fullmatch(text.strip())
    if short:
        weights, inputs, grain = short.groups()
        return _short(weights, inputs, grain, text)
    if "=" not in text:
        return Scheme(parse_tensor(text))
    found: dict[str, TensorScheme] = {}
    for part in text.split(","):
        key, _, value = part.strip().partition("=")
        if key not in KEYS or KEYS[key] in found:
            raise ValueError(f"scheme {text!r}: {part!r} does not fit, need w=, a= and e= at most once each")
        found[KEYS[key]] = _inputs(value, text) if key == "a" else parse_tensor(value)
    return Scheme(**found)


def _short(weights: str, inputs: str, grain: str | None, whole: str) -> Scheme:
    """The scheme of `w4a8:token`; errors name the text, not the parts that nobody typed."""
    _check_inputs_grain(grain or "token", whole)
    try:
        return Scheme(parse_tensor(f"int{weights}:channel"), parse_tensor(f"int{inputs}:{grain or 'token'}"))
    except ValueError as error:
        raise ValueError(f"scheme {whole!r}: {error}") from None


def _inputs(text: str, whole: str) -> TensorScheme:
    scheme = parse_tensor(text)
    _check_inputs_grain(scheme.grain, whole)
    return scheme


def _check_inputs_grain(grain: str, whole: str) -> None:
    if grain not in ("tensor", "token"):
        raise ValueError(
            f"scheme {whole!r}: inputs have grain {grain!r}, need tensor or token (a scale that varies along the "
            "contracted axis cannot leave the sum)"
        )
