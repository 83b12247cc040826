"""The ladder of schemes that `jaxquant decide` climbs down, from float to broken.  DATA: one row a rung.

The order is fixed before any score is seen, safest first: the recommendation rests on it (DEC-8).
"""

from dataclasses import dataclass

from refquant.schemes import Scheme, parse


@dataclass(frozen=True)
class Rung:
    """One row of the ladder.

    Attributes:
      scheme: its text, as `jaxquant quantize --weights` takes it.
      about: what a reader should know it as.
    """

    scheme: str
    about: str

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
    Rung("int3:g32:sf16",                           "3-bit weights, groups of 32"),
    Rung("int3:channel",                            "3-bit weights, one scale a channel"),
    Rung("int2:g32:sf16",                           "2-bit weights, groups of 32"),
)  # fmt: skip


def rungs(texts: tuple[str, ...] | None) -> tuple[Rung, ...]:
    """The default ladder, or one rung for each scheme text given.

    Raises:
      ValueError: a text that is no scheme.
    """
    if not texts:
        return LADDER
    known = {rung.scheme: rung for rung in LADDER}
    made = tuple(known.get(text, Rung(text, "as asked for")) for text in texts)
    for rung in made:
        rung.parsed  # noqa: B018  a bad scheme is refused before any work
    return made
