"""The recipes: all compile, all pass preflight, their settings agree, and their page is fresh."""

import itertools
import json

import pytest

from components.data import catalogue
from components.preflight import stage as preflight
from components.preflight.config import TRAINING
from model.tokenizer import reasoned
from pipelines import compiler, overrides, placement
from pipelines.form import constants
from pipelines.recipes import RECIPES, d1
from pipelines.stages import stages
from tests.pipelines import recipe_page

LARGE = [name for name in RECIPES if name != "tiny"]


def combinations(name):
    """Every recipe with some of its training stages on, in every way that has a data set."""
    recipe = RECIPES[name]()
    have = [stage for stage in TRAINING if getattr(recipe, stage) is not None]
    for count in range(1, len(have) + 1):
        for on in itertools.combinations(have, count):
            preference = next((stage for stage in ("grpo", "dpo") if stage in on), "grpo")
            off = [f"{stage}=null" for stage in have if stage not in on]
            yield on, overrides.override(recipe, [f"preference={preference}", *off])


def checked(recipe, tmp_path):
    """What preflight prints of a recipe; it is given the same objects as at its command line."""
    preflight.run(release_accuracy=tmp_path / "bar", **vars(recipe))


@pytest.mark.parametrize("name", RECIPES)
def test_every_combination_passes_preflight(name, tmp_path, capsys):
    for preference in ("dpo", "grpo"):
        checked(RECIPES[name](preference=preference), tmp_path)
    for _, recipe in combinations(name):
        checked(recipe, tmp_path)
    assert {*capsys.readouterr().out.splitlines()} == {"preflight: every configuration is valid"}


@pytest.mark.parametrize("name", RECIPES)
def test_every_combination_compiles(name, tmp_path):
    """Each has the training stages that are on, and no other."""
    profile = placement.profile(name)
    for on, recipe in combinations(name):
        file = tmp_path / "pipeline.yaml"
        compiler.write(recipe, file, profile=profile)
