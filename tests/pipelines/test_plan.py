"""The plan of a run before it starts, by its command line and against the formula behind it."""

import dataclasses
import json
import os
import subprocess
import sys

import pytest
from google.protobuf.json_format import MessageToDict

from model.options import Lora
from model.training.sizing import Run, Shape, memory
from pipelines import llada, plan, plan_base, plan_speed, plan_stages, plan_traffic
from pipelines.recipes import RECIPES
from tests.components.storage.hub_server import Hub
from tests.conftest import ROOT

GIB = 1 << 30
NOWHERE = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_DISABLE_TELEMETRY": "1"}


def planned(*words, **environment):
    command = [sys.executable, "-m", "pipelines.plan", *words]
    env = {**os.environ, **NOWHERE, **environment}
    return subprocess.run(
        command, cwd=ROOT, env=env, capture_output=True, text=True, check=False, timeout=300
    )


@pytest.fixture(scope="module")
def large():
    """LLaDA-8B as an artifact on 8 GPUs, planned where no network is."""
    done = planned("llada_8b", "--gpus", "8", "--json", "--set", "download.mirror=null")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_8b_without_network(large):
    assert large["parameters"] == 8_015_581_184 and "out of reach" in large["base_origin"]
    stages = {stage["stage"]: stage for stage in large["stages"]}
    assert list(stages) == ["pretrain", "sft", "grpo", "evaluate", "evaluate_base"]
    recipe = RECIPES["llada_8b"]()
    pretrain = stages["pretrain"]
    run = Run(length=recipe.pretrain.window, processes=8)
    for part, size in memory(Shape(), run).items():
        assert pretrain["memory_bytes"][part] == size
    assert pretrain["tokens"] == recipe.pretrain.steps * 64 * recipe.pretrain.window
    # What was measured at this length on one H200, times 8.
    assert pretrain["tokens_per_second"] == pytest.approx(8 * 8168, rel=1e-3)
    seconds = pretrain["tokens"] / pretrain["tokens_per_second"]
    assert pretrain["hours"] == pytest.approx(seconds / 3600)
    assert pretrain["mfu"] == pytest.approx(0.352, abs=0.01)
    assert all(stage["fits"] for stage in stages.values())


def test_every_task_that_takes_a_model_moves_it(large):
    tasks = {task["task"]: task for task in large["tasks"]}
    assert tasks["download"]["bytes_to_store"] >= 16_031_162_368
    assert not any(" dpo" in name for name in tasks)
    assert tasks["evaluate grpo"]["bytes_from_store"] >= 16_031_162_368
    assert tasks["preflight"] == {"task": "preflight", "bytes_from_store": 0, "bytes_to_store": 0}


def test_a_base_on_a_volume_goes_through_no_store(large):
    """Only the merged model does: written by merge and by release, read by release."""
    done = planned("llada_8b", "--json")
    assert done.returncode == 0, done.stderr
    tasks = json.loads(done.stdout)["tasks"]
    moved = sum(task["bytes_from_store"] + task["bytes_to_store"] for task in tasks)
    before = sum(task["bytes_from_store"] + task["bytes_to_store"] for task in large["tasks"])
    assert before - moved == 8 * large["base_bytes"]  # written once, read seven times
    assert moved < 60e9


@pytest.fixture(scope="module")
def graph():
    return MessageToDict(llada.build(RECIPES["llada_8b"](), profile="gpu").pipeline_spec)


def traffic(graph, **download):
    """By task, of LLaDA-8B with these settings of the download."""
    recipe = RECIPES["llada_8b"]()
    recipe = dataclasses.replace(recipe, download=dataclasses.replace(recipe.download, **download))
    base = plan_base.published("GSAI-ML/LLaDA-8B-Base")
    tasks = plan_traffic.traffic(graph, recipe, base, 0)
    return base.size, {task.task: task for task in tasks}


@pytest.mark.parametrize("home", ["/training/models", "s3://bucket/models"])
def test_a_base_that_is_in_the_mirror_is_written_nowhere(graph, home):
    """Stages read it there, and nothing of it lies on a node's disk."""
    size, mirrored = traffic(graph, mirror=home)
    _, in_place = traffic(graph, mirror=home, model=f"{home}/mine")
    once = size if home.startswith("s3") else 0
    figures = [(task.taken, task.written, task.disk) for task in (mirrored["download"],)]
    assert figures == [(0, once, size)], "fetched from the Hub, by way of the node's disk"
    download = in_place.pop("download")
    assert (download.taken, download.written, download.disk) == (once, 0, 0)
    assert in_place == {name: task for name, task in mirrored.items() if name != "download"}
    assert mirrored["pretrain"].taken == once and mirrored["pretrain"].disk < size


def test_headers_on_the_hub(downloaded):
    """Parameters and bytes are those of the files, of which only the beginning is read."""
    folder = downloaded / "model"
    model = {path.name: path.read_bytes() for path in folder.iterdir() if path.name[0] != "."}
    with Hub(model=model) as hub:
        done = planned("tiny", "--json", "--set", "download.model=owner/model", HF_ENDPOINT=hub.url)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    own = json.loads((folder / ".artifact.json").read_text())["summary"]["parameters"]
    assert found["parameters"] == own and found["base_bytes"] == 4 * own
    assert found["base_origin"] == "the headers of 1 files of owner/model"
    assert found["context"] == 128


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["llada_8b", "--gpus", "0"], "GPUS='0', allowed: 1 to 4096"),
        (["llada_9b"], "RECIPE='llada_9b', allowed: "),
        (["tiny", "--placement", "huge"], "--placement='huge', allowed: gpu, small"),
        (["tiny", "--set", "download.model=/not/there"], "download.model='/not/there', allowed: "),
    ],
)
def test_refusals(capsys, words, message):
    with pytest.raises(SystemExit) as end:
        plan.main(words)
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("plan: error: ") and message in line


@pytest.fixture(scope="module")
def tiny():
    return plan.plan("tiny", RECIPES["tiny"](), "small")


def test_the_page_fits_a_terminal(tiny):
    lines = plan.render(tiny).splitlines()
    assert max(map(len, lines)) <= 120
    for name in ("pretrain", "sft", "grpo", "merge grpo", "release grpo"):
        assert any(line.startswith(f"{name} ") for line in lines), name
    assert "no warnings" in lines


def doubts(recipe, base, **gpus):
    limits = plan_stages.with_gpus(plan.placement.limits("gpu"), gpus.get("gpus"))
    return "\n".join(plan_stages.warnings(recipe, base, limits))


def test_warnings(tiny):
    recipe, base = RECIPES["tiny"](), tiny.base
    assert doubts(recipe, base) == ""
    assert "pretrain.batch_size=8, allowed: a multiple of 24" in doubts(recipe, base, gpus=3)
    low = dataclasses.replace(recipe.sft, lora=Lora(rank=8))
    assert "sft.lora.rank=8 is below 64" in doubts(dataclasses.replace(recipe, sft=low), base)
    long = dataclasses.replace(recipe.sft, max_length=128)
    found = doubts(dataclasses.replace(recipe, sft=long), base)
    assert "grpo.gen_length=32 with sft.max_length=128" in found
    assert "evaluate.gen_length=32 with sft.max_length=128" in found
    full = dataclasses.replace(recipe.pretrain, window=128, micro_batch_size=8)
    large = dataclasses.replace(base, shape=Shape())
    found = doubts(dataclasses.replace(recipe, pretrain=full), large)
    assert "pretrain needs" in found and "allowed: up to 76.0, a GPU of its placement" in found


def test_speeds_are_those_of_the_tables():
    speed = plan_speed.measured(gpu=True)
    assert speed.device == "NVIDIA H200" and set(speed.rates) == {4096, 8192}
    assert speed.generate(Shape(), 4, "dual") == pytest.approx(390)
    assert speed.generate(Shape(), 15, "dual") == pytest.approx(390)
    assert speed.generate(Shape(), 64, "dual") == pytest.approx(672.4)
    assert speed.generate(Shape(), 64, "prefix") == pytest.approx(197.3)
