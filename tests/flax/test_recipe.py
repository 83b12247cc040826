"""Recipes: matching, JSON, refusals, and the specs that rules resolve to."""

import dataclasses
import re

import pytest

from jaxquant.flax.recipe import Place, Recipe, Schedule
from jaxquant.flax.report import Report, Row
from jaxquant.flax.rule import Rule, pattern
from jaxquant.flax.site import LayerSpec, kernel_letters_summed, resolve, resolve_attention
from refquant.estimators import Lsq, LsqPlus, Pact, Ste
from refquant.formats import ALL
from refquant.granularity import PerAxis, PerBlock, PerGroup, PerTensor, PerToken
from refquant.schemes import parse_tensor
from refquant.spec import QuantSpec

PLACES = [
    Place("embed", None),
    Place("layers/0/up", None),
    Place("layers/0/down", None),
    Place("layers/1/up", None),
    Place("layers/0/attn", None, attention=True),
    Place("head", None),
]


def is_head(path, module):
    return path == "head"


@pytest.mark.parametrize(
    ("where", "hits", "misses"),
    [
        ("**", ["", "a", "a/b/c"], []),
        ("head", ["head"], ["heads", "a/head", ""]),
        ("*/up", ["0/up"], ["up", "0/1/up"]),
        ("**/up", ["up", "0/up", "0/1/up"], ["0/upper", "xup"]),
        ("a/**", ["a", "a/b", "a/b/c"], ["ab", "b/a"]),
        ("a/**/b", ["a/b", "a/x/b", "a/x/y/b"], ["ab", "a/xb"]),
        ("encoder/*/mlp/**", ["encoder/0/mlp/up", "encoder/0/mlp"], ["encoder/mlp/up"]),
        ("layers/?/up", ["layers/0/up"], ["layers/10/up", "layers//up"]),
        ("a.b", ["a.b"], ["axb"]),
        ("Dense_*", ["Dense_0"], ["Dense_0/x"]),
    ],
)
def test_pattern_property(where, hits, misses):
    assert [p for p in hits if not pattern(where).fullmatch(p)] == []
    assert [p for p in misses if pattern(where).fullmatch(p)] == []


def test_rules_are_frozen_hashable_and_know_their_schemes():
    rule = Rule("**", weights="int4", inputs="int8")
    assert rule.weights == parse_tensor("int4:channel") and rule.inputs == parse_tensor("int8:token")
    assert rule == Rule("**", weights=parse_tensor("int4"), inputs="int8:token")
    assert len({rule, Rule("**", weights="int4:channel", inputs="int8:token")}) == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        rule.weights = None
    assert Rule("**", weights="int4", inputs="int8:tensor", input_estimator=Lsq()).input_scale == "static"


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({}, "says nothing, need weights, attention or keep"),
        ({"inputs": "int8"}, "inputs without weights, need both"),
        ({"keep": "norm", "weights": "int8"}, "need a reason alone"),
        ({"keep": ""}, "need a reason alone"),
        ({"weights": "int8:token"}, "weights are per token"),
        ({"weights": "nf4", "inputs": "int8"}, "weights has format nf4"),
        ({"weights": "int8", "inputs": "e4m3fn"}, "inputs has format e4m3fn"),
        ({"weights": "int8", "inputs": "int8:g32"}, "grain 'g32', need tensor or token"),
        ({"weights": "int8", "inputs": "int8:channel"}, "grain 'channel'"),
        ({"weights": "int8", "inputs": "int8:token", "input_scale": "static"}, "static inputs with grain token"),
        ({"weights": "int8", "inputs": "int8:token", "input_estimator": Lsq()}, "static inputs with grain token"),
        ({"weights": "int8", "input_scale": "static"}, "static input scales without inputs"),
        ({"weights": "int8", "input_scale": "moving"}, "input_scale is 'moving'"),
        ({"weights": "int8", "calibration": "median"}, "calibration is 'median'"),
        ({"weights": "int8", "calibration": "mse:3"}, "calibration is 'mse:3'"),
        ({"weights": "int8", "weight_estimator": Pact()}, "Pact of weights with int8"),
        ({"weights": "uint8:asym", "weight_estimator": Pact()}, "weight_estimator is Pact"),
        ({"weights": "uint4:asym", "weight_estimator": Lsq()}, "Lsq of weights with uint4, need a signed format"),
        ({"weights": "uint4:asym", "weight_estimator": LsqPlus()}, "LsqPlus of weights with uint4, need a signed"),
        ({"weights": "int8", "inputs": "int8:tensor", "input_estimator": Pact()}, "need an unsigned format"),
        ({"weights": "int8", "weight_estimator": LsqPlus()}, "need ':asym'"),
        ({"weights": "int8:asym", "weight_estimator": Lsq()}, "need a symmetric scale"),
        ({"weights": "int4:g32:sf16", "weight_estimator": Lsq()}, "Lsq of weights with scales in float16"),
        ({"weights": "nf4", "weight_estimator": Lsq()}, "need integer codes"),
        ({"weights": "int5x"}, "format is 'int5x'"),
    ],
)
def test_bad_rules_are_refused(options, text):
    with pytest.raises(ValueError, match="(?s)" + text.replace("(", r"\(")):
        Rule("**", **options)


@pytest.mark.parametrize("where", [None, 3])
def test_bad_patterns_are_refused(where):
    with pytest.raises(TypeError, match="need a pattern or a predicate"):
        Rule(where, weights="int8")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"keep": 5}, "Rule '**': keep is 5, need a text: the reason why the layers stay in float"),
        ({"keep": True}, "Rule '**': keep is True, need a text: the reason why the layers stay in float"),
        ({"weights": "int8", "fold": 3}, "Rule '**': fold is 3, need a text: the name of a batch norm"),
        (
            {"weights": "int8", "calibration": None},
            "Rule '**': calibration is None, need a text: minmax, ema:0.01 or the like",
        ),
    ],
)
def test_texts_that_are_none_are_refused_golden(options, text):
    with pytest.raises(TypeError) as caught:
        Rule("**", **options)
    assert str(caught.value) == text


@pytest.mark.parametrize("value", [-1, 1.5, 2**24, True])
def test_bad_schedules_are_refused(value):
    with pytest.raises(ValueError, match="need a step from 0"):
        Schedule(start=value)


@pytest.mark.parametrize("text", ["percentile:99.9", "percentile:99", "percentile:0", "percentile:2000000",
                                  "percentile:", "ema:5", "ema:0", "ema:", "ema:x", "minmax:"])  # fmt: skip
def test_rules_refuse_calibrations_out_of_bounds(text):
    need = {"percentile": "millionths from 500000 to 1000000", "ema": "from 2\\*\\*-20 to 1"}.get(
        text.partition(":")[0], "minmax"
    )
    with pytest.raises(ValueError, match=f"calibration is '{text}', need .*{need}"):
        Rule("**", calibration=text, weights="int8", inputs="int8:token")
    for good in ("percentile:500000", "percentile:1000000", "ema:1", "ema:1e-3", "ema"):
        assert Rule("**", calibration=good, weights="int8", inputs="int8:token").calibration == good


def test_attention_has_no_later_start():
    rule = Rule("**", weights="int8", attention="int8")
    with pytest.raises(ValueError, match=r"Recipe: rule '\*\*' has attention and schedule.start is 3, need start=0"):
        Recipe(rule, schedule=Schedule(start=3))
    Recipe(rule, schedule=Schedule(freeze_scales=3))


def test_a_freeze_without_a_folded_norm_is_refused():
    with pytest.raises(
        ValueError, match="freeze_batch_norm is 2 and no rule has fold, need a rule that folds the norm"
    ):
        Recipe(Rule("**", weights="int8"), schedule=Schedule(freeze_batch_norm=2))
    Recipe(Rule("**", weights="int8", fold="norm"), schedule=Schedule(freeze_batch_norm=2))


def test_groups_of_a_model_that_is_one_layer_name_a_rule_that_picks_it():
    with pytest.raises(ValueError, match=r"put Rule\('', weights='int4:channel', ...\) before"):
        resolve(Rule("**", weights="int4:g2"), "conv", (3, 4, 2))
    assert Rule("", weights="int4:channel").matches("", None)


def test_recipes_hold_rules():
    for bad in ((), ("int8",)):
        with pytest.raises((TypeError, ValueError), match="need"):
            Recipe(*bad)
    with pytest.raises(TypeError, match="need a Schedule"):
        Recipe(Rule("**", weights="int8"), schedule=3)
    assert hash(Recipe(Rule("**", weights="int8"))) == hash(Recipe(Rule("**", weights="int8")))


def test_the_first_rule_that_speaks_of_a_layer_wins():
    recipe = Recipe(Rule("**/attn", attention="int8"), Rule("head", keep="sensitive"), Rule("**", weights="int4"))
    recipe.check(PLACES)
    assert [recipe.rule_for(p) and recipe.rules.index(recipe.rule_for(p)) for p in PLACES] == [2, 2, 2, 2, 0, 1]
    assert recipe.why(recipe.rules[1]) == "kept (rule 2: 'head'): sensitive"


def test_attention_is_off_unless_asked_for():
    recipe = Recipe(Rule("**", weights="int4", inputs="int8"))
    assert recipe.rule_for(PLACES[4]) is None


def test_a_rule_that_matches_nothing_names_the_nearest():
    with pytest.raises(ValueError, match=r"rule 'layers/0/upp' matches nothing.*'layers/0/up', "):
        Recipe(Rule("layers/0/upp", weights="int8"), Rule("**", weights="int4")).check(PLACES)
    with pytest.raises(ValueError, match="nearest attentions: 'layers/0/attn'"):
        Recipe(Rule("attn", attention="int8")).check(PLACES)
    with pytest.raises(ValueError, match="the model has no layers to quantize"):
        Recipe(Rule("**", weights="int8")).check([])


def test_rules_that_contradict_are_refused():
    with pytest.raises(ValueError, match=r"rule 2 \('head'\) contradicts rule 1 \('\*\*'\), which takes 'head'"):
        Recipe(Rule("**", weights="int8"), Rule("head", keep="sensitive")).check(PLACES)
    Recipe(Rule("**", weights="int8"), Rule("head", weights="int8")).check(PLACES)
    Recipe(Rule("head", weights="int8"), Rule("**", weights="int4")).check(PLACES)


RECIPES = [
    Recipe(Rule("**", weights="int4:g32:sf16", inputs="int8:token:asym")),
    Recipe(
        Rule(is_head, keep="sensitive"),
        Rule("**/attn", attention="int8"),
        Rule(
            "**",
            weights=QuantSpec(ALL["int4"], PerGroup(0, 8)),
            inputs="uint8:tensor:asym",
            weight_estimator=Lsq(gradient_scale="none"),
            input_estimator=LsqPlus(),
            fold="norm",
        ),
        schedule=Schedule(freeze_scales=3, freeze_batch_norm=10),
    ),
    Recipe(
        Rule("a", weights=QuantSpec(ALL["nf4"], PerBlock((2, 2)))),
        Rule("**", weights="int8", weight_estimator=Ste(mask="ratio")),
        schedule=Schedule(start=3),
    ),
]


@pytest.mark.parametrize("recipe", RECIPES, ids=range(len(RECIPES)))
def test_json_round_trip(recipe):
    assert Recipe.from_json(recipe.to_json()) == recipe


def test_json_refuses_what_it_cannot_name():
    with pytest.raises(ValueError, match="need a function of a module"):
        Recipe(Rule(lambda p, m: True, weights="int8")).to_json()


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("{", "no JSON"),
        ("[]", '"recipe": 1'),
        ('{"recipe": 2, "rules": []}', '"recipe": 1'),
        ('{"recipe": 1, "rules": [{"where": "**", "weight": "int8"}]}', "a rule has 'weight'"),
        ('{"recipe": 1, "rules": [{"weights": "int8"}]}', "has no where"),
        ('{"recipe": 1, "rules": [{"where": {"function": "no.such:f"}, "weights": "int8"}]}', "not found"),
        ('{"recipe": 1, "rules": [{"where": "**", "weights": 8}]}', "weights is 8"),
        ('{"recipe": 1, "rules": [{"where": "**", "weight_estimator": {"Dorefa": {}}}]}', "need one of Ste"),
        ('{"recipe": 1, "rules": [], "schedule": {"stop": 1}}', "the schedule has 'stop'"),
    ],
)  # fmt: skip
def test_bad_json_is_refused(text, error):
    with pytest.raises(ValueError, match=error):
        Recipe.from_json(text)


SPEC = '"weights": {"fmt": "int4", "granularity": {"PerAxis": {"axis": 1}}'


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        ('"weight": "int8"', "a rule has 'weight', need only weights, weight_estimator, where, "),
        ('"wieghts": "int8"', "a rule has 'wieghts', need only weights, "),
        (SPEC + ', "scales": {}}', "weights has 'scales', need only scale, "),
        (SPEC + ', "scale": {"storge": "float32"}}', "the scale of weights has 'storge', need only storage, "),
        (SPEC + ', "scale": 3}', "the scale of weights has 3, need only "),
        (SPEC + ', "convention": {"tie": "even"}}', "the convention of weights has 'tie', need only ties, "),
        (SPEC.replace('"axis"', '"axes"') + "}", "PerAxis has 'axes', need only axis"),
        (
            '"weights": {"fmt": "int4", "granularity": {"PerTensor": {"axis": 1}}}',
            "PerTensor has 'axis', need no field",
        ),
        (SPEC.replace("PerAxis", "PerAxes") + "}", "granularity is {'PerAxes': {'axis': 1}}, need one of PerAxis, "),
        ('"weights": {"granularity": {"PerTensor": {}}}', "weights has no fmt, need fmt and granularity"),
        ('"weights": {"fmt": "int4"}', "weights has no granularity, need fmt and granularity"),
        ('"weights": {"fmt": "int4", "granularity": "tensor"}', "granularity is 'tensor', need one of "),
        ('"weights": "int8", "weight_estimator": {"Lqs": {}}', "weight_estimator is {'Lqs': {}}, need one of Lsq, "),
        ('"weights": "int8", "weight_estimator": {"Lsq": {"gradient": 1}}', "Lsq has 'gradient', need only gradient_"),
    ],
)
def test_misspelt_json_property_is_told_with_the_nearest_first(rule, text):
    with pytest.raises(ValueError, match=f"^Recipe.from_json: {re.escape(text)}"):
        Recipe.from_json(f'{{"recipe": 1, "rules": [{{"where": "**", {rule}}}]}}')


def test_misspelt_json_property_has_the_fields_of_the_recipe_and_the_schedule_too():
    rules = '"rules": [{"where": "**", "weights": "int8"}]'
    for body, text in (
        ('"shedule": {"start": 1}', "the recipe has 'shedule', need only schedule, "),
        ('"schedule": {"freeze_norm": 1}', "the schedule has 'freeze_norm', need only freeze_batch_norm, "),
    ):
        with pytest.raises(ValueError, match=f"^Recipe.from_json: {text}"):
            Recipe.from_json(f'{{"recipe": 1, {rules}, {body}}}')


@pytest.mark.parametrize(
    ("kind", "shape", "summed", "weights", "granularity"),
    [
        ("linear", (8, 4), None, "int4", PerAxis(1)),
        ("linear", (8, 4), None, "int4:g4", PerGroup(0, 4)),
        ("linear", (8, 4), None, "int4:tensor", PerTensor()),
        ("linear", (8, 4), None, "nf4:b2x2", PerBlock((2, 2))),
        ("general", (2, 3, 4, 5), (0, 1), "int4", PerAxis((2, 3))),
        ("general", (7, 3, 4, 5), (1,), "int4", PerAxis((0, 2, 3))),
        ("general", (7, 3, 4), (1,), "int4:g2", PerGroup(1, 2)),
        ("einsum", (4, 5, 6), (1,), "int4", PerAxis((0, 2))),
        ("conv", (3, 3, 8, 16), None, "int4", PerAxis(3)),
        ("conv_transpose", (3, 8, 16), None, "int4", PerAxis(2)),
        ("conv_transpose", (3, 16, 8), (0, 2), "int4", PerAxis(1)),
        ("embed", (10, 4), None, "int4", PerAxis(0)),
        ("embed", (10, 4), None, "int4:g2", PerGroup(1, 2)),
    ],
)
def test_grains_become_granularities(kind, shape, summed, weights, granularity):
    site = resolve(Rule("**", weights=weights), kind, shape, summed=summed)
    assert site.weights.granularity == granularity
    granularity.scale_shape(shape)


def test_tokens_are_all_that_is_not_summed():
    site = resolve(Rule("**", weights="int8", inputs="int8"), "linear", (8, 4))
    assert site.inputs_for(3, (2,)).granularity == PerToken()
    assert site.inputs_for(4, (-2, -1)).granularity == PerAxis((0, 1))
    assert site.inputs_for(4, (1, 2, 3)).granularity == PerAxis((0,))
    assert site.inputs_for(2, (0, 1)).granularity == PerTensor()
    assert resolve(Rule("**", weights="int8"), "linear", (8, 4)).inputs_for(3, (2,)) is None


@pytest.mark.parametrize(
    ("rule", "kind", "shape", "summed", "text"),
    [
        (Rule("**", weights="int4:g2"), "conv", (3, 4, 4), None, "3 summed axes|2 summed axes"),
        (Rule("**", weights="int4:g2"), "general", (2, 3, 4), (0, 1), "2 summed axes"),
        (Rule("**", weights=QuantSpec(ALL["int4"], PerAxis(3))), "linear", (8, 4), None, "need axis 3 to exist"),
        (Rule("**", weights=QuantSpec(ALL["int4"], PerGroup(1, 2))), "linear", (8, 4), None, "need the summed one"),
        (Rule("**", weights="int4:b2x2", inputs="int8"), "linear", (8, 4), None, "cannot leave the sum"),
        (Rule("**", weights=QuantSpec(ALL["int4"], PerAxis(0)), inputs="int8"), "linear", (8, 4), None, "cannot leave"),
        (Rule("**", weights="int16", inputs="int16"), "linear", (8, 4), None, "the sum is kept in int32"),
    ],
)
def test_specs_that_do_not_fit_a_layer_are_refused(rule, kind, shape, summed, text):
    with pytest.raises(ValueError, match=text):
        resolve(rule, kind, shape, summed=summed, path="a/b")


def test_a_site_names_its_leaves():
    rule = Rule("**", weights="int4", inputs="uint8:tensor:asym", weight_estimator=Lsq(), input_scale="static")
    site = resolve(rule, "linear", (8, 4), schedule=Schedule(start=2))
    assert site.state_names == ("kernel_scale", "inputs_scale", "inputs_zero_point", "step")
    plus = dataclasses.replace(site, input_estimator=LsqPlus(), start=None)
    assert plus.state_names == ("kernel_scale", "inputs_scale", "inputs_offset")
    assert dataclasses.replace(site, input_estimator=Pact()).input_names == ("inputs_scale",)
    assert isinstance(resolve_attention(Rule("**", attention="int8")), LayerSpec)
    assert kernel_letters_summed("bqd, dhe -> bqhe") == (0,)
    assert "int4:axis1 Lsq" in str(site) and "static (minmax)" in str(site)


def test_a_report_is_a_table_and_json():
    rows = (Row("", "Linear", "int4:axis1", "float", "rule 1"), Row("norm", "LayerNorm", "", "", "a norm"))
    report = Report(rows)
    assert report["norm"].why == "a norm" and [r.path for r in report.left_in_float] == ["norm"]
    assert report.as_dict()["rows"][0]["weights"] == "int4:axis1"
    assert str(report).splitlines()[2].split() == [".", "Linear", "int4:axis1", "float", "rule", "1"]
    with pytest.raises(KeyError, match="need one of '', 'norm'"):
        report["head"]
