"""The recipes for large models: they compile and pass preflight, their settings agree, and their
page is fresh."""

import dataclasses
import itertools
import re

import pytest
from google.protobuf.json_format import MessageToDict

from components import coerce
from components.data import catalogue
from components.evaluate.published import compare
from components.preflight import stage as preflight
from components.preflight.config import TRAINING
from model.tokenizer import reasoned
from pipelines import compiler, llada, pins
from pipelines.local import unmounted
from pipelines.overrides import choose, override
from pipelines.placement import Scheduling, on_volume, profile, resumes
from pipelines.recipes import RECIPES, d1
from pipelines.stages import stages
from tests.pipelines import recipe_page

LARGE = [name for name in RECIPES if name != "tiny"]


def combinations(name):
    """The recipe with every choice of its training stages, one of them at least."""
    recipe = RECIPES[name]()
    stages = [stage for stage in TRAINING if getattr(recipe, stage) is not None]
    for count in range(1, len(stages) + 1):
        for on in itertools.combinations(stages, count):
            preference = "dpo" if "dpo" in on and "grpo" not in on else "grpo"
            off = [f"{stage}=null" for stage in stages if stage not in on]
            yield on, override(recipe, [f"preference={preference}", *off])


@pytest.mark.parametrize("name", LARGE)
def test_every_combination_passes_preflight(name, tmp_path, capsys):
    recipes = [RECIPES[name](preference=preference) for preference in ("dpo", "grpo")]
    for recipe in [*recipes, *(recipe for _, recipe in combinations(name))]:
        preflight.run(graph={}, release_accuracy=tmp_path / "bar", **vars(recipe))
        assert capsys.readouterr().out == "preflight: every configuration is valid\n"


@pytest.mark.parametrize("name", LARGE)
def test_both_preferences_compile_to_one_pipeline(name):
    """Its tasks are the stages that are on, its defaults the recipe's values.

    tests/pipelines/test_stages_off.py compiles every combination of stages; a graph has no values.
    """
    recipes = [RECIPES[name](preference=word) for word in ("dpo", "grpo")]
    built = [
        MessageToDict(llada.build(recipe, profile=profile(name)).pipeline_spec)
        for recipe in recipes
    ]
    defaults = [spec["root"]["inputDefinitions"]["parameters"] for spec in built]
    words = [each.pop("preference")["defaultValue"] for each in defaults]
    assert words == ["dpo", "grpo"] and built[0] == built[1]
    on = [stage for stage in TRAINING if getattr(recipes[0], stage) is not None]
    assert {stage.name for stage in stages(built[0])} & {*TRAINING} == {*on}
    outlives(recipes[0], name, built[0])
    for stage in ("download", *on, "evaluate", "evaluate_base"):
        config, values = getattr(recipes[0], stage), defaults[0][stage]["defaultValue"]
        assert coerce.build(type(config), whole(values)) == config


def outlives(recipe, name, spec):
    """The compiler's table says of every task how often and for how long it may be tried."""
    table = compiler.survival(recipe, profile(name), Scheduling(resumes=resumes(recipe)))
    rows = {line.split()[0]: line.split()[1:] for line in table.splitlines()}
    dags = [spec["root"], *(part for part in spec["components"].values() if "dag" in part)]
    for task in (task for part in dags for task in part["dag"]["tasks"].values()):
        component = spec["components"][task["componentRef"]["name"]]
        if "executorLabel" not in component:
            continue
        container = spec["deploymentSpec"]["executors"][component["executorLabel"]]["container"]
        row = rows[container["command"][2].removeprefix("components.")]
        retry = task.get("retryPolicy", {"maxRetryCount": 0, "backoffMaxDuration": "-"})
        assert int(row[0]) == int(retry["maxRetryCount"]) + 1, task
        assert row[2] == "-" or f"{int(row[2]) * 3600}s" == retry["backoffMaxDuration"], task
    assert "policy Always" in table and "object-store" in rows["sft" if recipe.sft else "grpo"]


def whole(value):
    """A message's value with whole numbers, of which protobuf makes fractions."""
    if isinstance(value, dict):
        return {name: whole(item) for name, item in value.items()}
    if isinstance(value, list):
        return [whole(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


@pytest.mark.parametrize("name", LARGE)
def test_answers_fit_the_canvas_on_which_they_are_wanted(name):
    """d1 learns from longer thoughts than it answers with, as published."""
    recipe = RECIPES[name]()
    assert recipe.grpo.gen_length == recipe.evaluate.gen_length
    if recipe.sft is not None and name != "llada_8b_d1":
        assert recipe.sft.max_length == recipe.download.max_tokens == recipe.grpo.gen_length


@pytest.mark.parametrize("name", LARGE)
def test_updates_of_grpo_are_as_large_as_those_of_d1(name):
    """Its learning rate, 3e-6, times the scale of its adapter, 64/128."""
    grpo = RECIPES[name]().grpo
    assert grpo.learning_rate * grpo.lora.alpha / grpo.lora.rank == pytest.approx(1.5e-6)


@pytest.mark.parametrize("name", LARGE)
def test_every_part_has_data_by_name(name):
    """Each source is in the catalogue, has files, and is of the part's kind; tests are held out."""
    download = RECIPES[name]().download
    parts = {"pretrain", "sft", "preferences", "problems", "test"}
    on = {part for part in parts if getattr(download, part)}
    assert parts - on == {
        *({"pretrain"} if name != "llada_8b" else ()),
        *({"sft"} if name == "llada_1_5" else ()),
    }
    for part in on:
        for source in getattr(download, part):
            entry = catalogue.find(source.name, download.catalogue)
            resolved = catalogue.resolve(source, part, download.catalogue)
            assert (resolved.split in entry.held_out) == (part == "test")
    assert pins.unpinned(RECIPES[name]())[0].name == download.model


@pytest.mark.parametrize("name", LARGE)
def test_the_base_is_kept_on_the_volume_of_a_cluster_alone(name, capsys):
    recipe = RECIPES[name]()
    assert on_volume(recipe.download)
    here = unmounted(recipe)
    assert here.download == dataclasses.replace(recipe.download, mirror=None)
    assert "/training" in capsys.readouterr().out
    cached = override(recipe, ["download.mirror=s3://b/k", "download.cache=/training/copies"])
    assert unmounted(cached).download == dataclasses.replace(here.download, mirror="s3://b/k")


def test_a_question_asks_for_the_form_that_is_rewarded():
    assert d1.ASK.endswith(reasoned("your steps", "the final answer"))
    entry = d1.asked("gsm8k")
    assert entry.prompt == f"{d1.ASK}\n\n{{question}}" and entry.answer == "answer"


def test_seed_and_preference_reach_every_stage():
    for build in RECIPES.values():
        recipe = build(seed=7, preference="dpo")
        seeds = {getattr(recipe, stage).seed for stage in TRAINING if getattr(recipe, stage)}
        assert seeds | {recipe.download.seed} == {7} and recipe.preference == "dpo"


def test_the_page_is_fresh():
    text = recipe_page.PAGE.read_text()
    assert recipe_page.page(text) == text, "python -m tests.pipelines.recipe_page writes it"
    assert [match[1] for match in recipe_page.MADE.finditer(text)] == [
        "expected",
        "plans",
        "cost",
        "fields",
    ]


def test_the_page_tells_of_every_recipe():
    text = recipe_page.PAGE.read_text()
    assert all(f"| `{name}` |" in text for name in RECIPES)
    assert {row[0] for row in recipe_page.EXPECTED} == {*LARGE}


def test_the_command_for_a_published_figure_departs_in_nothing():
    text = recipe_page.PAGE.read_text()
    (command,) = re.findall(r"RECIPE=(\w+) RUNS=\S+ SET='([^']+)'", text)
    recipe = choose(command[0], settings=command[1].split())
    for config in (recipe.evaluate, recipe.evaluate_base):
        comparison = compare(config, 0.5, 1000)
        assert comparison["departures"] == [] and comparison["published"] == 0.789
