"""The run form and preflight follow the fields of the recipe, without a further line."""

import dataclasses
import inspect
import typing

import pytest

from components.merge.config import MergeConfig
from components.preflight import component, stage
from components.preflight.config import Preference, Recipe
from components.sft.config import SftConfig
from components.signature import signed
from pipelines import form, llada
from pipelines.recipes import tiny

POSITIONAL = inspect.Parameter.POSITIONAL_OR_KEYWORD
SFT, MERGE = SftConfig(steps=7), MergeConfig()
NAMES = [field.name for field in dataclasses.fields(Recipe)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Extended(Recipe):
    """A recipe with a stage more, and a word more."""

    warm: SftConfig = SFT
    """A second fine-tuning."""
    nothing: MergeConfig = MERGE
    """No fields to choose."""
    order: Preference = "dpo"
    """A word."""


@pytest.fixture(scope="module")
def pipeline():
    fields = {name: getattr(tiny(), name) for name in NAMES}
    return llada.build(Extended(**fields)).component_spec


def test_a_new_field_is_an_input_of_preflight():
    inputs = component.component(Extended).component_spec.inputs
    assert list(inputs) == [*NAMES, "warm", "nothing", "order"]
    assert {name: inputs[name].type for name in ("warm", "order")} == {
        "warm": "Dict",
        "order": "String",
    }


def test_a_new_field_is_in_the_form(pipeline):
    assert list(pipeline.inputs) == [*NAMES, "warm", "nothing", "order"]
    assert pipeline.inputs["warm"].default["steps"] == 7
    assert pipeline.inputs["order"].default == "dpo"
    texts = {name: pipeline.inputs[name].description for name in ("warm", "nothing", "order")}
    assert texts == {
        "warm": "A second fine-tuning. Fields: components/sft/README.md.",
        "nothing": "No fields to choose.",
        "order": "A word.",
    }


def test_a_new_field_reaches_preflight_from_the_form(pipeline):
    task = pipeline.implementation.graph.root.dag.tasks["preflight"].inputs.parameters
    assert {name: task[name].component_input_parameter for name in task} == {
        name: name for name in [*NAMES, "warm", "nothing", "order"]
    }


def test_the_flags_of_the_command_are_the_fields():
    flags = [parameter.name for parameter in stage.flags()]
    assert flags == [*NAMES, "graph", "release_accuracy"]


def test_every_field_says_what_it_is():
    described = llada.build(tiny()).component_spec.inputs
    assert all(described[name].description for name in NAMES)


def test_the_form_is_the_recipe():
    recipe = tiny(preference="dpo")
    values = form.arguments(recipe)
    assert list(values) == NAMES and values["preference"] == "dpo"
    assert values["sft"]["betas"] == [0.9, 0.98] and values["merge"] == {}


def test_a_signed_function_takes_its_parameters_alone():
    parameters = [inspect.Parameter(name, POSITIONAL, annotation=int) for name in ("a", "b")]

    @signed(parameters)
    def names(**values):
        return values

    assert names(1, 2) == names(1, b=2) == names(b=2, a=1) == {"a": 1, "b": 2}
    for wrong in ({"a": 1}, {"a": 1, "b": 2, "c": 3}):
        with pytest.raises(TypeError):
            names(**wrong)
    assert typing.get_type_hints(names) == {"a": int, "b": int}
