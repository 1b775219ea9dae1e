"""The compiled pipeline: every recipe compiles, its edges, its defaults, its branches."""

import json

import pytest
import yaml
from kfp import compiler

from components import coerce
from pipelines import llada
from pipelines.recipes import RECIPES

STAGES = ("download", "pretrain", "merge", "sft", "dpo", "grpo", "evaluate", "report")


@pytest.fixture(scope="module", params=sorted(RECIPES))
def compiled(request, tmp_path_factory):
    """The recipe and its pipeline as the YAML that a cluster gets."""
    recipe = RECIPES[request.param]()
    file = tmp_path_factory.mktemp("compiled") / "pipeline.yaml"
    compiler.Compiler().compile(llada.build(recipe), str(file))
    return recipe, next(iter(yaml.safe_load_all(file.read_text())))


def producers(task):
    """Which task and output each input of a task comes from."""
    found = {}
    for name, source in task["inputs"].get("artifacts", {}).items():
        if "taskOutputArtifact" in source:
            origin = source["taskOutputArtifact"]
            found[name] = (origin["producerTask"], origin["outputArtifactKey"])
    return found


def test_edges(compiled):
    _, pipeline = compiled
    tasks = pipeline["root"]["dag"]["tasks"]
    assert tasks["download"]["dependentTasks"] == ["preflight"]
    assert producers(tasks["pretrain"]) == {
        "base": ("download", "model"),
        "dataset": ("download", "dataset"),
    }
    assert producers(tasks["merge"]) == {
        "base": ("download", "model"),
        "adapter": ("pretrain", "adapter"),
    }
    assert producers(tasks["sft"])["base"] == ("merge", "model")
    assert producers(tasks["merge-2"]) == {
        "base": ("merge", "model"),
        "adapter": ("sft", "adapter"),
    }
    assert producers(tasks["evaluate"])["model"] == ("merge", "model")
    assert producers(tasks["evaluate-2"])["model"] == ("merge-2", "model")


def test_branches(compiled):
    """Each aligns the SFT model, merges, evaluates and reports; only one of them runs."""
    _, pipeline = compiled
    graphs = [
        component["dag"]["tasks"]
        for component in pipeline["components"].values()
        if "dag" in component
    ]
    (choice,) = [tasks for tasks in graphs if any("triggerPolicy" in t for t in tasks.values())]
    first, second = [task["triggerPolicy"]["condition"] for task in choice.values()]
    assert "== 'dpo'" in first and second == f"!({first})"
    for method in ("dpo", "grpo"):
        (branch,) = [tasks for tasks in graphs if method in tasks]
        assert {name.split("-")[0] for name in branch} == {method, "merge", "evaluate", "report"}


def test_defaults_are_the_recipe(compiled):
    recipe, pipeline = compiled
    given = pipeline["root"]["inputDefinitions"]["parameters"]
    assert given["preference"]["defaultValue"] == recipe.preference
    for stage in STAGES:
        values = json.loads(json.dumps(given[stage]["defaultValue"]))
        kind = type(getattr(recipe, stage))
        assert coerce.build(kind, values) == getattr(recipe, stage)


def test_every_stage_runs_by_its_module(compiled):
    _, pipeline = compiled
    for executor in pipeline["deploymentSpec"]["executors"].values():
        command = executor["container"]["command"] + executor["container"]["args"]
        assert command[:2] == ["python", "-m"] and command[2].startswith("components.")
