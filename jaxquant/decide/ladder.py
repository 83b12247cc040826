"""The ladder of schemes that `jaxquant decide` climbs down, from float to broken.  DATA: one row a rung.

The order is fixed before any score is seen, safest first: the recommendation rests on it (DEC-8).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from refquant.formats import IntFormat
from refquant.schemes import Scheme, parse

QAT, DEFAULT_QAT = " + QAT", "int4:channel"


@dataclass(frozen=True)
class Rung:
    """One row of the ladder.

    Attributes:
      scheme: its text, as `jaxquant quantize --weights` takes it.
      about: what a reader should know it as.
      qat: whether the model is trained under the scheme first.
    """

    scheme: str
    about: str
    qat: bool = False

    @property
    def label(self) -> str:
        """The name of its row: "int4:channel", "int4:channel + QAT"."""
        return self.scheme + (QAT if self.qat else "")

    @property
    def parsed(self) -> Scheme:
        """The scheme itself."""
        return parse(self.scheme)


#        scheme                                     about
LADDER = (
    Rung("int8:g32:sf16",                           "8-bit weights, groups of 32"),
    Rung("w=int8:g32:sf16,e=int8:g32:sf16",         "8-bit weights and embeddings, groups of 32"),
    Rung("int8:channel",                            "8-bit weights, one scale a channel"),
    Rung("w=int8:channel,e=int8:channel",           "8-bit weights and embeddings, a scale a channel"),
    Rung("w=int8:channel,a=int8:token",             "8-bit weights, 8-bit inputs a token"),
    Rung("w=int8:channel,a=int8:tensor",            "8-bit weights, 8-bit inputs a tensor"),
    Rung("e4m3fn:channel",                          "fp8 weights"),
    Rung("nf4:g64:sf16",                            "4-bit NormalFloat, groups of 64"),
    Rung("int4:g32:sf16",                           "4-bit weights, groups of 32"),
    Rung("w=int4:g32:sf16,e=int8:channel",          "4-bit weights, 8-bit embeddings"),
    Rung("w=int4:g32:sf16,e=int4:g32:sf16",         "4-bit weights and embeddings"),
    Rung("int4:channel",                            "4-bit weights, one scale a channel"),
    Rung("w=int4:channel,a=int8:token",             "4-bit weights, 8-bit inputs a token"),
    Rung("w=int4:channel,a=int8:tensor",            "4-bit weights, 8-bit inputs a tensor"),
    Rung("int3:g32:sf16",                           "3-bit weights, groups of 32"),
    Rung("int3:channel",                            "3-bit weights, one scale a channel"),
    Rung("int2:g32:sf16",                           "2-bit weights, groups of 32"),
    Rung("int2:channel",                            "2-bit weights, one scale a channel"),
)  # fmt: skip


def rungs(texts: Sequence[str] | None, qat: bool | str = False) -> tuple[Rung, ...]:
    """The default ladder, or one rung for each scheme text given.

    Args:
      texts: schemes (a single one may be a str); with " + QAT" behind one the model is trained under it.
      qat: a scheme to train under besides, or True for int4:channel.
    Raises:
      ValueError: a text that is no scheme, or a training under one without integer weights.
    """
    texts = [texts] if isinstance(texts, str) else texts
    found = [_rung(text) for text in texts] if texts else list(LADDER)
    if qat:
        trained = _rung((DEFAULT_QAT if qat is True else qat).removesuffix(QAT) + QAT)
        found = [*found, trained] if trained not in found else found
    return _in_order(found)


def _rung(text: str) -> Rung:
    """The rung of a text; a bad one is refused before any work."""
    scheme, trained, _ = re.fullmatch(r"(.*?)(\s*\+\s*qat)?(\s*)", text, re.IGNORECASE | re.DOTALL).groups()
    if wrong := re.fullmatch(r"(.*?)\s*\+\s*([^+]*?)\s*", scheme, re.DOTALL):  # no scheme has a plus
        raise ValueError(
            f"decide: scheme {text!r} has '+ {wrong[2]}' behind {wrong[1]!r}, need '+ QAT' once or nothing; nearest: "
            f"{wrong[1]}{QAT}"
        )
    known = {rung.scheme: rung for rung in LADDER}
    rung = Rung(scheme, known[scheme].about if scheme in known else "as asked for", bool(trained))
    parsed = rung.parsed
    if parsed.inputs:
        _check_inputs(scheme, parsed)
    if rung.qat:
        _check_trainable(scheme, parsed)
    return rung


def _check_inputs(text: str, scheme: Scheme) -> None:
    """Both sides of a product have integer codes (LAY-3); which layers can is not asked here."""
    for name, one in (("weights", scheme.weights), ("inputs", scheme.inputs)):
        if one is None or not isinstance(one.fmt, IntFormat) or one.scale.zero == "float":
            have = f"as {one}" if one else "in float"
            raise ValueError(
                f"decide: scheme {text!r} names inputs and has {name} {have}, need integer codes and zero points on "
                "both sides of a product as in 'w8a8:token', or no inputs"
            )


def _check_trainable(text: str, scheme: Scheme) -> None:
    tensors = [one for one in (scheme.weights, scheme.embeddings) if one]
    wrong = next((one for one in tensors if not isinstance(one.fmt, IntFormat)), None)
    if wrong or scheme.weights is None:
        have = f"{wrong.fmt.name} codes" if wrong else "float weights"
        raise ValueError(
            f"decide: QAT of {text!r} has {have}, need integer weights as in {DEFAULT_QAT!r} (the gradient passes a "
            "rounding to integers)"
        )


def _in_order(found: Sequence[Rung]) -> tuple[Rung, ...]:
    """Each trained rung right before its untrained twin, which it is expected to be safer than (DEC-12)."""
    order: list[Rung] = [rung for rung in found if not rung.qat]
    for rung in [rung for rung in found if rung.qat]:
        twin = next((k for k, other in enumerate(order) if other == Rung(rung.scheme, other.about)), len(order))
        order.insert(twin, rung)
    return tuple(order)


def timely(found: Sequence[Rung]) -> list[Rung]:
    """The order of evaluation: what must be trained comes last, because it takes minutes."""
    return sorted(found, key=lambda rung: rung.qat)
