"""The compiled pipeline: every recipe compiles, its edges, its defaults, its branches."""

import dataclasses
import json
import os
import re
import subprocess
import sys

import pytest
import yaml

from components import coerce
from pipelines import placement
from pipelines.compile import write
from pipelines.recipes import RECIPES, Recipe
from tests.conftest import ROOT

IMAGE = {"IMAGE": "registry.example/llada@sha256:" + "0" * 64}

STAGES = (
    "download",
    "pretrain",
    "merge",
    "sft",
    "dpo",
    "grpo",
    "evaluate",
    "report",
    "release",
)
MEMORY = {"Mi": 2**20, "Gi": 2**30}


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A recipe, its placement, and the two documents that a cluster gets."""

    recipe: Recipe
    placements: dict
    pipeline: dict
    platform: dict

    def executors(self):
        """Stage, container and Kubernetes settings of every kind of pod."""
        settings = self.platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
        for name, executor in self.pipeline["deploymentSpec"]["executors"].items():
            container = executor["container"]
            stage = container["command"][2].removeprefix("components.")
            yield stage, container, settings[name]

    def tasks(self):
        """Every task that starts a pod, and its stage."""
        for tasks in [self.pipeline["root"]["dag"]["tasks"], *graphs(self.pipeline)]:
            for task in tasks.values():
                component = self.pipeline["components"][task["componentRef"]["name"]]
                if label := component.get("executorLabel"):
                    executor = self.pipeline["deploymentSpec"]["executors"][label]
                    yield executor["container"]["command"][2].removeprefix("components."), task


@pytest.fixture(scope="module", params=sorted(RECIPES))
def compiled(request, tmp_path_factory):
    """The recipe compiled by the command behind `make pipeline-compile`."""
    folder = tmp_path_factory.mktemp("compiled")
    command = [sys.executable, "-m", "pipelines.compile", request.param, "--output", str(folder)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, env=os.environ | IMAGE
    )
    assert done.returncode == 0, done.stderr
    pipeline, platform = yaml.safe_load_all((folder / f"{request.param}.yaml").read_text())
    placements = placement.PROFILES[placement.profile(request.param)]
    return Compiled(RECIPES[request.param](), placements, pipeline, platform)


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


def graphs(pipeline):
    """The tasks of every graph within the pipeline."""
    return [part["dag"]["tasks"] for part in pipeline["components"].values() if "dag" in part]


def test_branches(compiled):
    """Each aligns the SFT model, merges, evaluates and reports; only one of them runs."""
    pipeline = compiled.pipeline
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
    (branch,) = [tasks for tasks in graphs(compiled.pipeline) if method in tasks]
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
    measured = producers(branch[source["producerTask"]])["model"]
    given = task["inputs"]["artifacts"]
    assert measured in {(v["taskOutputArtifact"]["producerTask"], "model") for v in given.values()}


def test_defaults_are_the_recipe(compiled):
    recipe, pipeline = compiled.recipe, compiled.pipeline
    given = pipeline["root"]["inputDefinitions"]["parameters"]
    assert given["preference"]["defaultValue"] == recipe.preference
    for stage in STAGES:
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
    assert set(found) == {"preflight", *STAGES}
    assert found["preflight"] == {"release_accuracy": "NUMBER_DOUBLE"}
    for stage in STAGES:
        assert found[stage]["metrics"] == "system.Metrics"
    for stage in ("evaluate", "report"):
        assert found[stage]["page"] == "system.HTML"
        assert found[stage]["summary"] == "system.Markdown"
    assert found["evaluate"]["accuracy"] == "NUMBER_DOUBLE"
    assert found["release"]["release"] == found["merge"]["model"] == "system.Model"


def test_run_form_says_what_every_parameter_is(compiled):
    given = compiled.pipeline["root"]["inputDefinitions"]["parameters"]
    assert set(given) == {"preference", *STAGES}
    for name, parameter in given.items():
        assert len(parameter["description"]) > 10, name
        for page in re.findall(r"components/\w+/README.md", parameter["description"]):
            assert (ROOT / page).is_file()
    assert "release" in compiled.pipeline["pipelineInfo"]["description"]


def test_images(compiled):
    """One image for every stage, the one that was asked for."""
    assert {container["image"] for _, container, _ in compiled.executors()} == {IMAGE["IMAGE"]}


def bytes_of(text):
    return int(text[:-2]) * MEMORY[text[-2:]]


def test_resources(compiled):
    for stage, container, _ in compiled.executors():
        wanted, resources = compiled.placements[stage], container["resources"]
        for key in ("memoryLimit", "memoryRequest"):
            assert resources[key] * 1e9 == pytest.approx(bytes_of(wanted.memory))
        limit = float(wanted.cpu[1])
        assert resources["cpuLimit"] == limit and 0 < resources["cpuRequest"] <= limit
        accelerator = resources.get("accelerator", {})
        assert int(accelerator.get("resourceCount", 0)) == wanted.gpus
        assert accelerator.get("resourceType", wanted.gpu) == "nvidia.com/gpu"


def test_gpus_are_where_the_weights_are():
    found = {stage for stage, wanted in placement.PROFILES["gpu"].items() if wanted.gpus}
    assert found == {"pretrain", "sft", "dpo", "grpo", "evaluate"}
    assert not any(wanted.gpus for wanted in placement.PROFILES["small"].values())


def test_pods(compiled):
    """User, pools, tolerations, shared memory, volumes, deadlines: as Kubernetes will be told."""
    for stage, _, settings in compiled.executors():
        wanted = compiled.placements[stage]
        context = settings["securityContext"]
        assert context == {"runAsUser": "10001", "runAsGroup": "10001", "runAsNonRoot": True}
        assert int(settings["activeDeadlineSeconds"]) == 3600 * wanted.hours
        assert settings.get("nodeSelector", {}).get("labels", {}) == wanted.nodes
        keys = [toleration["key"] for toleration in settings.get("tolerations", [])]
        assert keys == list(wanted.tolerations)
        memory = {
            mount["mountPath"]: mount["sizeLimit"] for mount in settings.get("emptyDirMounts", [])
        }
        assert memory == ({"/dev/shm": wanted.shared_memory} if wanted.shared_memory else {})
        claims = [mount["constant"] for mount in settings.get("pvcMount", [])]
        assert claims == ([wanted.cache] if wanted.cache else [])


def test_secrets_are_optional_environment_variables(compiled):
    """No value is in the document, only where the pod finds it."""
    for stage, container, settings in compiled.executors():
        found = {}
        for secret in settings.get("secretAsEnv", []):
            assert secret["optional"] is True
            found[secret["secretName"]] = {
                pair["secretKey"]: pair["envVar"] for pair in secret["keyToEnv"]
            }
        wanted = compiled.placements[stage]
        assert found == {name: placement.SECRETS[name] for name in wanted.secrets}
        assert "env" not in container


def test_retries_and_caching(compiled):
    for stage, task in compiled.tasks():
        wanted = compiled.placements[stage]
        assert task["cachingOptions"] == ({"enableCache": True} if wanted.reuse else {})
        policy = task.get("retryPolicy", {})
        assert policy.get("maxRetryCount", 0) == wanted.retries
        if wanted.retries:
            assert policy["backoffDuration"] == "30s" and policy["backoffFactor"] == 2.0
            assert policy["backoffMaxDuration"] == "600s"
    reused = {stage for stage, wanted in compiled.placements.items() if wanted.reuse}
    assert reused == set(STAGES)


def test_where_is_not_what(tmp_path):
    """Another placement changes no input, command or default, so that KFP's cache key stays."""
    documents = []
    for profile in placement.PROFILES:
        write(RECIPES["tiny"](), tmp_path / "out.yaml", profile=profile)
        pipeline = next(iter(yaml.safe_load_all((tmp_path / "out.yaml").read_text())))
        for executor in pipeline["deploymentSpec"]["executors"].values():
            executor["container"].pop("resources")
        documents.append(pipeline)
    assert documents[0] == documents[1]


def test_compiling_twice_gives_the_same_bytes(tmp_path):
    """The order of sets changes with the process; the file must not."""
    found = set()
    for seed in ("1", "2"):
        command = [sys.executable, "-m", "pipelines.compile", "tiny", "--output", str(tmp_path)]
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True, env=environment)
        found.add((tmp_path / "tiny.yaml").read_bytes())
    assert len(found) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["huge"], ["huge", "llada_8b, tiny"]),
        (["tiny", "--placement", "moon"], ["moon", "gpu, small"]),
        (["tiny", "--set", "sft.step=1"], ["sft.step", "did you mean steps?"]),
    ],
)
def test_bad_arguments(tmp_path, arguments, words):
    command = [sys.executable, "-m", "pipelines.compile", *arguments, "--output", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    for word in words:
        assert word in line
    assert not list(tmp_path.iterdir())
