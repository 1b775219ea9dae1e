"""The compiled pipeline: every recipe compiles, its edges, its defaults, its branches."""

import json
import os
import re
import subprocess
import sys

import pytest

from components import coerce
from tests.conftest import ROOT
from tests.pipelines.conftest import IMAGE, STAGES, graphs


def offered(recipe):
    """The parameters of a recipe's form: a stage that is off is none."""
    choice = {"preference"} if len(recipe.methods) == 2 else set()
    return {*choice, *STAGES, "evaluate_base"} - {*recipe.off}


def producers(task):
    """Which task and output each input of a task comes from."""
    found = {}
    for name, source in task["inputs"].get("artifacts", {}).items():
        if "taskOutputArtifact" in source:
            origin = source["taskOutputArtifact"]
            found[name] = (origin["producerTask"], origin["outputArtifactKey"])
    return found


def test_edges(compiled):
    pipeline = compiled.pipeline
    tasks = pipeline["root"]["dag"]["tasks"]
    assert tasks["download"]["dependentTasks"] == ["preflight"]
    data, model = ("download", "dataset"), {"base": ("download", "model")}
    evaluations = iter(("evaluate", "evaluate-2"))
    for stage in ("pretrain", "sft"):
        if getattr(compiled.recipe, stage) is not None:
            assert producers(tasks[stage]) == {**model, "dataset": data}
            model = after(model, stage, compiled.recipe)
        if stage in tasks or stage == "pretrain":
            base, *adapters = model.values()
            inputs = {"model": base, **named(adapters), "dataset": data}
            assert producers(tasks[next(evaluations)]) == inputs


def after(model, stage, recipe):
    """The inputs by which a model is handed on after a training stage."""
    output = (stage, "trained")
    if getattr(recipe, stage).lora is None:
        return {"base": output}
    base, *adapters = model.values()
    return {"base": base, **named([*adapters, output])}


def named(adapters):
    return {f"adapter_{number}": adapter for number, adapter in enumerate(adapters)}


def test_the_last_model_alone_is_merged(compiled):
    """From the base and every adapter; it has a task before it for each method."""
    root = compiled.pipeline["root"]["dag"]["tasks"]
    adapters = [stage for stage in ("pretrain", "sft") if stage in compiled.recipe.adapters]
    merges = [
        task
        for tasks in [root, *graphs(compiled.pipeline)]
        for name, task in tasks.items()
        if name.startswith("merge")
    ]
    assert len(merges) == max(1, len(compiled.recipe.methods))
    for task in merges:
        inputs = task["inputs"]["artifacts"]
        earlier = adapters if compiled.recipe.methods else adapters[:-1]
        assert set(inputs) == {"base", "trained", *named(earlier)}


def test_preflight_is_given_all_that_a_run_is(compiled):
    """The word too: a wrong one would train the other branch for hours."""
    task = compiled.pipeline["root"]["dag"]["tasks"]["preflight"]
    given = task["inputs"]["parameters"]
    names = offered(compiled.recipe)
    assert given == {name: {"componentInputParameter": name} for name in names}
    (container,) = [found for stage, found, _ in compiled.executors() if stage == "preflight"]
    place = container["args"].index("--preference")
    word = "{{$.inputs.parameters['preference']}}"
    fixed = compiled.recipe.preference
    assert container["args"][place + 1] == (word if "preference" in names else fixed)


def test_branches(compiled):
    """Each aligns the SFT model, merges, evaluates and reports; only one of them runs."""
    pipeline = compiled.pipeline
    if len(compiled.recipe.methods) < 2:
        assert all(len(conditions(tasks)) < 2 for tasks in graphs(pipeline))
        return
    (choice,) = [tasks for tasks in graphs(pipeline) if len(conditions(tasks)) == 2]
    first, second = conditions(choice)
    assert "== 'dpo'" in first and second == f"!({first})"
    for method in ("dpo", "grpo"):
        (branch,) = [tasks for tasks in graphs(pipeline) if method in tasks]
        stages = {name.split("-")[0] for name in branch}
        assert stages == {method, "merge", "evaluate", "report", "condition"}


def conditions(tasks):
    return [t["triggerPolicy"]["condition"] for t in tasks.values() if "triggerPolicy" in t]


@pytest.mark.parametrize("method", ["dpo", "grpo"])
def test_release_needs_accuracy(compiled, method):
    """The aligned model's own exact match, against the bar that preflight hands on."""
    if getattr(compiled.recipe, method) is None:
        assert not any(method in tasks for tasks in graphs(compiled.pipeline))
        return
    root = compiled.pipeline["root"]["dag"]["tasks"]
    (branch,) = [tasks for tasks in [root, *graphs(compiled.pipeline)] if method in tasks]
    (task,) = [task for task in branch.values() if "triggerPolicy" in task]
    ours, bar = re.findall(r"\['([^']+)'\]", task["triggerPolicy"]["condition"])
    assert ">=" in task["triggerPolicy"]["condition"]
    source = task["inputs"]["parameters"][ours]["taskOutputParameter"]
    assert branch[source["producerTask"]]["componentRef"]["name"].startswith("comp-evaluate")
    assert source["outputParameterKey"] == "accuracy"
    assert bar == "pipelinechannel--preflight-release_accuracy"
    inner = compiled.pipeline["components"][task["componentRef"]["name"]]["dag"]["tasks"]
    (name,) = inner
    assert name.startswith("release")
    evaluated = branch[source["producerTask"]]["inputs"]["artifacts"]
    (merge,) = [part for name, part in branch.items() if name.startswith("merge")]
    assert {"merge", source["producerTask"]} == {
        re.sub(r"^merge-\d+$", "merge", origin["taskOutputArtifact"]["producerTask"])
        for origin in task["inputs"]["artifacts"].values()
    }
    assert merge["inputs"]["artifacts"]["base"] == evaluated["model"]


def test_defaults_are_the_recipe(compiled):
    recipe, pipeline = compiled.recipe, compiled.pipeline
    given = pipeline["root"]["inputDefinitions"]["parameters"]
    if "preference" in given:
        assert given["preference"]["defaultValue"] == recipe.preference
    for stage in offered(recipe) - {"preference"}:
        values = json.loads(json.dumps(given[stage]["defaultValue"]))
        kind = type(getattr(recipe, stage))
        assert coerce.build(kind, values) == getattr(recipe, stage)


def test_every_stage_runs_by_its_module(compiled):
    pipeline = compiled.pipeline
    for executor in pipeline["deploymentSpec"]["executors"].values():
        command = executor["container"]["command"] + executor["container"]["args"]
        assert command[:2] == ["python", "-m"] and command[2].startswith("components.")


def test_types_of_outputs(compiled):
    """What the UI draws: metrics everywhere, pages where there is something to see."""
    found = {}
    for name, component in compiled.pipeline["components"].items():
        outputs = component.get("outputDefinitions", {})
        if "executorLabel" in component:
            found[re.sub(r"-\d+$", "", name.removeprefix("comp-"))] = {
                **{
                    k: v["artifactType"]["schemaTitle"]
                    for k, v in outputs.get("artifacts", {}).items()
                },
                **{k: v["parameterType"] for k, v in outputs.get("parameters", {}).items()},
            }
    assert set(found) == {"preflight", *STAGES} - {*compiled.recipe.off}
    assert found["preflight"] == {"release_accuracy": "NUMBER_DOUBLE"}
    for stage in set(found) - {"preflight"}:
        assert found[stage]["metrics"] == "system.Metrics"
    for stage in ("evaluate", "report"):
        assert found[stage]["page"] == "system.HTML"
        assert found[stage]["summary"] == "system.Markdown"
    assert found["evaluate"]["accuracy"] == "NUMBER_DOUBLE"
    assert found["release"]["release"] == found["merge"]["model"] == "system.Model"


def test_run_form_says_what_every_parameter_is(compiled):
    given = compiled.pipeline["root"]["inputDefinitions"]["parameters"]
    assert set(given) == offered(compiled.recipe)
    for name, parameter in given.items():
        assert len(parameter["description"]) > 10, name
        for page in re.findall(r"components/\w+/README.md", parameter["description"]):
            assert (ROOT / page).is_file()
    assert "release" in compiled.pipeline["pipelineInfo"]["description"]


def test_images(compiled):
    """One image for every stage, the one that was asked for."""
    assert {container["image"] for _, container, _ in compiled.executors()} == {IMAGE["IMAGE"]}


def test_compiling_twice_gives_the_same_bytes(tmp_path):
    """The order of sets changes with the process; the file must not."""
    found = set()
    for seed in ("1", "2"):
        command = [sys.executable, "-m", "pipelines.compiler", "tiny", "--output", str(tmp_path)]
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True, env=environment)
        found.add((tmp_path / "tiny.yaml").read_bytes())
    assert len(found) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["huge"], ["RECIPE='huge'", "llada_8b_instruct, tiny"]),
        (["tiny", "--placement", "moon"], ["--placement='moon'", "gpu, small"]),
        (["tiny", "--set", "sft.step=1"], ["sft.step", "did you mean steps?"]),
    ],
)
def test_bad_arguments(tmp_path, arguments, words):
    command = [sys.executable, "-m", "pipelines.compiler", *arguments, "--output", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    for word in words:
        assert word in line
    assert not list(tmp_path.iterdir())
