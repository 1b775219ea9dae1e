"""Stages that train on several nodes: their TrainJobs, and what they are told and outlive."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from components import coerce
from components.cli import TRAINJOB
from components.preflight.memory import limits_of
from components.trainjob import manifest
from components.trainjob.config import TrainjobConfig
from pipelines import nodes, placement
from pipelines.recipes import RECIPES
from tests.conftest import ROOT
from tests.pipelines.test_placement import parts, variables_of


def test_preflight_is_told_of_the_gpus_of_all_nodes(tmp_path):
    """A process runs on each, so that shares of a model are smaller and batches are shared out."""
    pipeline, _ = parts(tmp_path, recipe="llada_8b", profile="gpu", nodes={"sft": 4})
    (told,) = [
        limits_of(variables_of(executor["container"])["PLACEMENT"])
        for name, executor in pipeline["deploymentSpec"]["executors"].items()
        if name == "exec-preflight"
    ]
    assert (told["sft"].gpus, told["pretrain"].gpus) == (4, 1)


def test_a_stage_on_several_nodes_starts_a_trainjob_of_itself(tmp_path):
    """Its own component with its own inputs and outputs; its pod waits, and shares the claim."""
    pipeline, settings = parts(tmp_path, "llada_8b", "gpu", nodes={"grpo": 4}, queue="team")
    alone, _ = parts(tmp_path, "llada_8b", "gpu", queue="team")
    executors, others = (p["deploymentSpec"]["executors"] for p in (pipeline, alone))
    container, other = executors["exec-grpo"]["container"], others["exec-grpo"]["container"]
    assert (container["command"], container["args"]) == (other["command"], other["args"])
    assert pipeline["components"]["comp-grpo"] == alone["components"]["comp-grpo"]
    ((name, text),) = [(entry["name"], entry["value"]) for entry in container["env"]]
    assert name == TRAINJOB and "env" not in executors["exec-sft"]["container"]
    job = coerce.build(TrainjobConfig, json.loads(text))
    gpu = placement.PROFILES["gpu"]["grpo"]
    assert (job.stage, job.nodes, job.processes, job.gpus) == ("grpo", 4, gpu.gpus, gpu.gpus)
    assert (job.memory, dict(job.pool)) == (gpu.memory, gpu.nodes)
    assert dict(job.labels) == {"kueue.x-k8s.io/queue-name": "team"}
    assert ("JUDGE_API_KEY", "judge", "api-key") in job.secrets
    pod = settings["deploymentSpec"]["executors"]["exec-grpo"]
    (mount,) = pod["pvcMount"]
    assert (mount["constant"], mount["mountPath"]) == (job.claim, job.directory)
    assert "accelerator" not in container["resources"] and "nodeSelector" not in pod
    assert int(pod["activeDeadlineSeconds"]) > job.hours * 3600
    job = manifest.build(
        "grpo-1",
        job,
        image="llada",
        settings={},
        inputs={"base": (Path("/training/base"),)},
        outputs=["trained"],
        folder=Path("/training/outputs"),
    )
    assert job["spec"]["trainer"]["numNodes"] == 4
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "team"


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("merge=2", "allowed: STAGE=N, once each of pretrain, sft, dpo, grpo"),
        ("sft", "--nodes='sft'"),
        ("sft=0", "--nodes='sft=0'"),
        ("sft=3", "nodes=3, allowed: 1, 2, 4, 8, 16: nodes that share batch_size=16"),
        ("grpo=3", "nodes=3, allowed: 1, 2, 4, 8, 16, 32, 64: nodes that share prompts"),
    ],
)
def test_nodes_that_cannot_be_are_refused_with_those_that_can(setting, words):
    with pytest.raises(ValueError, match=words):
        nodes.numbers([setting], RECIPES["tiny"](), "small")


def test_the_compiler_says_what_a_stage_on_several_nodes_outlives(tmp_path):
    """Its pod, which waits, has attempts and hours of its own, and the claim keeps checkpoints."""
    command = [sys.executable, "-m", "pipelines.compiler", "llada_8b", "--nodes", "sft=2"]
    command += ["--output", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    (row,) = [line.split() for line in done.stdout.splitlines() if line.startswith("sft ")]
    pipeline, platform = yaml.safe_load_all((tmp_path / "llada_8b.yaml").read_text())
    policy = pipeline["root"]["dag"]["tasks"]["sft"]["retryPolicy"]
    pod = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]["exec-sft"]
    hours = int(pod["activeDeadlineSeconds"]) // 3600
    window = int(policy["backoffMaxDuration"][:-1]) // 3600
    figures = [f"{policy['maxRetryCount'] + 1}", f"{hours}", f"{window}"]
    assert row[:7] == ["sft", "on", "2", "nodes", *figures]
    ((_, value),) = [
        (entry["name"], entry["value"])
        for entry in pipeline["deploymentSpec"]["executors"]["exec-sft"]["container"]["env"]
    ]
    job = coerce.build(TrainjobConfig, json.loads(value))
    assert {*row[7:10]} == {secret for _, secret, _ in job.secrets}
    assert row[10:] == [f"{job.directory}/checkpoints", "(claim", f"{job.claim})"]
    assert "on several nodes: attempts" in done.stdout


def test_make_hands_the_numbers_of_nodes_on():
    command = ["make", "--dry-run", "pipeline-compile", "RECIPE=llada_8b", "BIN=."]
    command.append("NODES=pretrain=4 sft=2")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "llada_8b --nodes 'pretrain=4' --nodes 'sft=2'" in done.stdout
