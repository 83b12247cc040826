"""The scheme grammar (refquant.schemes): what is written is what is read."""

import itertools

import pytest
import strategies as some
from hypothesis import given
from hypothesis import strategies as st

from refquant.formats import ALL
from refquant.granularity import PerAxis, PerBlock, PerGroup, PerTensor, PerToken
from refquant.schemes import OPTIONS, Scheme, TensorScheme, parse, parse_tensor
from refquant.spec import QuantSpec, ScaleRule, check_scale_rule

RULES = [("none", "qmax"), ("none", "half_range"), ("none", "pow2"), ("none", "signed_absmax"), ("int", "qmax")]


def possible(fmt_name: str, zero: str, denominator: str, storage: str) -> TensorScheme | None:
    try:
        rule = ScaleRule(zero, denominator, storage)
        check_scale_rule("test", ALL[fmt_name], rule)
    except ValueError:
        return None
    return TensorScheme(ALL[fmt_name], "channel", rule)


@st.composite
def tensor_schemes(draw, grains=("tensor", "channel", "token", "g1", "g32", "g128", "b32x32", "b1x128")):
    storages = ("float32", "float16", "bfloat16", "e4m3fn", "e8m0fnu", "pow2")
    zero, denominator = draw(st.sampled_from([*RULES, ("float", "qmax")]))
    found = possible(draw(st.sampled_from(list(ALL))), zero, denominator, draw(st.sampled_from(storages)))
    scheme = found or TensorScheme(ALL["int4"])
    return TensorScheme(scheme.fmt, draw(st.sampled_from(grains)), scheme.scale)


@given(tensor_schemes())
def test_tensor_scheme_property_round_trip(scheme):
    """A tensor scheme's text is its value."""
    assert parse_tensor(str(scheme)) == scheme


@given(
    st.builds(
        Scheme,
        st.one_of(st.none(), tensor_schemes()),
        st.one_of(st.none(), tensor_schemes(grains=("tensor", "token"))),
        st.one_of(st.none(), tensor_schemes()),
    ).filter(lambda s: s != Scheme())
)
def test_scheme_property_round_trip(scheme):
    """A scheme's text is its value."""
    assert parse(str(scheme)) == scheme


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("int8", "int8:channel"),
        ("int4:g32:sf16", "int4:g32:sf16"),
        ("w8a8", "w=int8:channel,a=int8:token"),
        ("w4a8:tensor", "w=int4:channel,a=int8:tensor"),
        (" w=int4:g32, a=int8:token ", "w=int4:g32,a=int8:token"),
        ("e=int8:token", "e=int8:token"),
    ],
)
def test_parse_golden(text, want):
    """Shorthands and spaces."""
    assert str(parse(text)) == want


def test_spec_golden():
    """Grains become granularities on a layer's axes."""
    for grain, want in [
        ("tensor", PerTensor()),
        ("channel", PerAxis(1)),
        ("token", PerToken()),
        ("g32", PerGroup(0, 32)),
        ("b16x32", PerBlock((16, 32))),
    ]:
        spec = parse_tensor(f"int4:{grain}:sf16").spec(channel_axis=1, group_axis=0)
        assert spec == QuantSpec(ALL["int4"], want, ScaleRule(storage="float16"))
    assert parse_tensor("int4:channel").spec().granularity == PerAxis(0)
    assert parse_tensor("int4:g32").spec().granularity == PerGroup(-1, 32)
    with pytest.raises(TypeError, match="positional"):
        parse_tensor("int4").spec(*(1,))


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("int99", "format is 'int99', need a name in refquant.formats.ALL; nearest: "),
        ("", "format is '', need a name"),
        ("int4:g0", "'g0' is neither a grain nor an option"),
        ("int4:sf16:g32", "'g32' is neither a grain nor an option, need tensor, channel, token, gN or bRxC"),
        ("int4:g32:sf16:sbf16", "'sbf16' sets storage a second time"),
        ("int4:g32:g32", "'g32' is neither a grain nor an option"),
        ("nf4:g32:asym", "scale rule is zero='int', denominator='qmax' for nf4"),
        ("uint4:g32", "scale rule is symmetric for uint4"),
        ("int4:asym:half", "denominator is 'half_range' with zero 'int'"),
        ("x=int4", "'x=int4' does not fit, need w=, a= and e= at most once each"),
        ("w=int4,w=int8", "'w=int8' does not fit"),
        ("w=int4,a=int8:channel", "inputs have grain 'channel', need tensor or token"),
        ("a=int8:g32", "inputs have grain 'g32'"),
        ("w8a8:g32", "inputs have grain 'g32'"),
        ("w99a8", "scheme 'w99a8': format is 'int99'"),
        ("w4a8:foo", "scheme 'w4a8:foo': inputs have grain 'foo', need tensor or token"),
    ],
)
def test_parse_refusals(text, part):
    """GEN-5: the message names the part that does not fit."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        parse(text)
    assert part in str(caught.value)


def test_options_golden():
    """Each option is one field of ScaleRule, and no two say the same."""
    assert len({tuple(f.items()) for f in OPTIONS.values()}) == len(OPTIONS)
    for a, b in itertools.combinations(OPTIONS, 2):
        if set(OPTIONS[a]) == set(OPTIONS[b]):
            with pytest.raises(ValueError, match="a second time|need"):
                parse(f"int4:g32:{a}:{b}")
    assert some.INTS
