"""Every combination of training stages compiles; the graph holds what is on, and nothing else."""

import dataclasses
import itertools
import json

import pytest
from google.protobuf.json_format import MessageToDict

from components import coerce
from components.preflight.config import TRAINING, Recipe
from pipelines import form, llada
from pipelines.overrides import override
from pipelines.recipes import tiny
from pipelines.stages import stages

COMBINATIONS = [
    names
    for count in range(1, len(TRAINING) + 1)
    for names in itertools.combinations(TRAINING, count)
]


def recipe(names, preference=None):
    """The tiny recipe with these training stages alone."""
    off = {name: None for name in TRAINING if name not in names}
    methods = [name for name in ("dpo", "grpo") if name in names]
    word = preference or next(iter(methods), "grpo")
    return dataclasses.replace(tiny(), **off, preference=word)


@pytest.fixture(scope="module", params=COMBINATIONS, ids="-".join)
def built(request):
    """A combination, its recipe and its compiled pipeline."""
    ours = recipe(request.param)
    return request.param, ours, MessageToDict(llada.build(ours).pipeline_spec)


def named(pipeline):
    return sorted(stage.name for stage in stages(pipeline))


def expected(names):
    """The stages of a run in the order of its graph."""
    yield from ("preflight", "download")
    ends = [name for name in ("dpo", "grpo") if name in names]
    for name, evaluation in (("pretrain", "base"), ("sft", "sft")):
        if name in names:
            yield name
        if name in names or evaluation == "base":
            yield f"evaluate {evaluation}"
    for name in ends:
        yield from (name, f"merge {name}", f"evaluate {name}")  # SFT leaves a whole model here
    for name in ends or ["sft" if "sft" in names else "pretrain"]:
        yield from (f"report {name}", f"release {name}")


def test_the_graph_has_what_is_on(built):
    names, _, pipeline = built
    assert named(pipeline) == sorted(expected(names))


def test_the_form_offers_what_is_on(built):
    names, ours, pipeline = built
    offered = pipeline["root"]["inputDefinitions"]["parameters"]
    assert {name for name in TRAINING if name in offered} == set(names)
    assert ("preference" in offered) == ({"dpo", "grpo"} <= set(names))
    assert set(offered) == set(form.arguments(ours))


def test_preflight_builds_the_same_recipe(built):
    """The stages that are off reach it as constants of its command."""
    _, ours, pipeline = built
    (container,) = [
        executor["container"]
        for executor in pipeline["deploymentSpec"]["executors"].values()
        if executor["container"]["command"][2] == "components.preflight"
    ]
    flags = dict(zip(container["args"][::2], container["args"][1::2], strict=True))
    assert json.loads(flags["--graph"]) == {"adapters": [*ours.adapters]}
    assert {name for name in ours.off if flags[f"--{name}"] == "null"} == set(ours.off)
    values = {**form.arguments(ours), **dict.fromkeys(ours.off)}
    assert coerce.build(Recipe, {"preference": ours.preference, **values}) == ours


def test_the_report_gets_what_there_is(built):
    names, _, pipeline = built
    inputs = {
        "pretrain": {"pretrain_metrics"},
        "sft": {"sft_metrics", "sft_evaluation"},
        "dpo": {"preference_metrics", "aligned_evaluation"},
        "grpo": {"preference_metrics", "aligned_evaluation"},
    }
    wanted = {"base_evaluation"}.union(*(inputs[name] for name in names))
    components = pipeline["components"]
    reports = [part for name, part in components.items() if name.startswith("comp-report")]
    assert reports
    for part in reports:
        assert set(part["inputDefinitions"]["artifacts"]) == wanted


def test_a_recipe_that_trains_nothing():
    off = dict.fromkeys(TRAINING)
    with pytest.raises(ValueError, match="pretrain, sft, dpo, grpo: all are null, allowed: a tra"):
        dataclasses.replace(tiny(), **off)


@pytest.mark.parametrize(("off", "other"), [("dpo", "grpo"), ("grpo", "dpo")])
def test_a_preference_whose_stage_is_off(off, other):
    with pytest.raises(ValueError, match=f"preference='{off}', allowed: {other}, the stages"):
        dataclasses.replace(tiny(preference=off), **{off: None})


def test_a_setting_turns_a_stage_off():
    ours = override(tiny(), ["pretrain=null", "dpo=null", "sft.steps=3"])
    assert ours.off == ("pretrain", "dpo") and ours.sft.steps == 3
    assert ours.last == "grpo"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["merge=null"], "--set merge=null"),
        (["sft=off"], "--set sft=off"),
        (["sft=null", "sft.steps=3"], "--set sft='null', allowed: null without --set sft.steps"),
        (["grpo=null"], "preference='grpo', allowed: dpo"),
    ],
)
def test_settings_that_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        override(tiny(), settings)
