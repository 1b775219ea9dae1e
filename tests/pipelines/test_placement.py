"""Where the compiled stages run: what each pod is told, and that it changes nothing of the run."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from components import USER
from components.download.config import DownloadConfig
from components.preflight.memory import limits_of
from pipelines import placement
from pipelines.compiler import write
from pipelines.recipes import RECIPES
from tests.conftest import ROOT
from tests.pipelines.conftest import STAGES, graphs

MEMORY = {"Mi": 2**20, "Gi": 2**30}


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
        assert context == {"runAsUser": str(USER), "runAsGroup": str(USER), "runAsNonRoot": True}
        assert int(settings["activeDeadlineSeconds"]) == 3600 * wanted.hours
        assert settings.get("nodeSelector", {}).get("labels", {}) == wanted.nodes
        keys = [toleration["key"] for toleration in settings.get("tolerations", [])]
        assert keys == list(wanted.tolerations)
        memory = {
            mount["mountPath"]: mount["sizeLimit"] for mount in settings.get("emptyDirMounts", [])
        }
        assert memory == ({"/dev/shm": wanted.shared_memory} if wanted.shared_memory else {})
        claims = [mount["constant"] for mount in settings.get("pvcMount", [])]
        reads = placement.on_volume(compiled.recipe.download) and stage in placement.WEIGHTS
        assert claims == [name for name in (wanted.cache, "training" if reads else None) if name]


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
        # Preflight is told the placement and the claims of the others, and nothing else is in any
        # pod's document.
        names = [variable["name"] for variable in container.get("env", ())]
        has_claims = any(placed.cache for placed in compiled.placements.values())
        told = ["PLACEMENT", *(["CLAIMS"] if has_claims else [])]
        assert names == (told if stage == "preflight" else [])


def test_retries_and_caching(compiled):
    for stage, task in compiled.tasks():
        wanted = compiled.placements[stage]
        assert task["cachingOptions"] == ({"enableCache": True} if wanted.reuse else {})
        policy = task.get("retryPolicy", {})
        assert policy.get("maxRetryCount", 0) == wanted.retries
        if wanted.retries:
            assert policy["backoffDuration"] == "60s" and policy["backoffFactor"] == 1.0
            assert policy["backoffMaxDuration"] == f"{wanted.window}s"
            # Argo kills the attempt that runs when the window, counted from the first, closes.
            assert wanted.window >= (wanted.retries + 1) * wanted.hours * 3600
    reused = {stage for stage, wanted in compiled.placements.items() if wanted.reuse}
    assert reused == {*STAGES, "trainjob"}


def variables_of(container):
    return {variable["name"]: variable["value"] for variable in container["env"]}


def test_preflight_is_told_what_every_pod_has(compiled):
    """Memory, GPUs and their memory, so that a stage that cannot hold its model is refused."""
    (container,) = [found for stage, found, _ in compiled.executors() if stage == "preflight"]
    told = limits_of(variables_of(container)["PLACEMENT"])
    assert set(told) == set(compiled.placements)
    for stage, wanted in compiled.placements.items():
        expected = (bytes_of(wanted.memory), wanted.gpus, bytes_of(wanted.gpu_memory))
        assert told[stage] == expected


def parts(folder, recipe="tiny", profile="small", **scheduling):
    """The tasks by stage and the Kubernetes settings of a recipe that is scheduled so."""
    file = folder / "out.yaml"
    write(RECIPES[recipe](), file, profile=profile, scheduling=placement.Scheduling(**scheduling))
    pipeline, platform = yaml.safe_load_all(file.read_text())
    return pipeline, platform["platforms"]["kubernetes"]


def test_training_that_resumes_is_started_again_more_often(tmp_path):
    pipeline, _ = parts(tmp_path, resumes=True)
    tasks = pipeline["root"]["dag"]["tasks"]
    policy = tasks["sft"]["retryPolicy"]
    assert policy["maxRetryCount"] == 10
    assert int(policy["backoffMaxDuration"][:-1]) >= 11 * placement.TRAIN.hours * 3600
    assert tasks["evaluate"]["retryPolicy"]["maxRetryCount"] == 2


def test_queue_priority_and_spot_machines(tmp_path):
    _, settings = parts(tmp_path, queue="team", priority="low", spot=True)
    for executor in settings["deploymentSpec"]["executors"].values():
        labels = executor["podMetadata"]["labels"]
        assert labels["kueue.x-k8s.io/queue-name"] == "team"
        assert labels["kueue.x-k8s.io/priority-class"] == "low"
        keys = [toleration["key"] for toleration in executor["tolerations"]]
        assert set(placement.SPOT) <= set(keys)


def test_without_cache_every_stage_runs(tmp_path):
    pipeline, _ = parts(tmp_path, cache=False)
    for tasks in [pipeline["root"]["dag"]["tasks"], *graphs(pipeline)]:
        stages = [task for task in tasks.values() if "retryPolicy" in task]
        assert all(task["cachingOptions"] == {} for task in stages)


def test_how_long_a_run_may_take_and_is_kept(compiled):
    kept = compiled.platform["platforms"]["kubernetes"]["pipelineConfig"]
    assert kept["resourceTtlOnFailure"] > kept["resourceTtlOnSuccess"] == 3600
    assert kept["activeDeadlineSeconds"] == 30 * 24 * 3600


def test_the_compiler_says_what_every_stage_outlives(tmp_path):
    command = [sys.executable, "-m", "pipelines.compiler", "tiny", "--output", str(tmp_path)]
    for stage in ("pretrain", "sft", "dpo", "grpo"):
        command += ["--set", f"{stage}.checkpoint_uri=s3://bucket/kept"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    file, *lines = done.stdout.splitlines()
    rows = {line.split()[0]: line.split() for line in lines}
    secrets = ["wandb", "mlflow", "object-store"]
    assert rows["sft"] == ["sft", "11", "2", "33", *secrets, "s3://bucket/kept"]
    assert rows["merge"] == ["merge", "3", "1", "6", "object-store", "-"]
    pipeline = next(iter(yaml.safe_load_all(Path(file).read_text())))
    assert pipeline["root"]["dag"]["tasks"]["sft"]["retryPolicy"]["maxRetryCount"] == 10
    patch = yaml.safe_load((ROOT / "manifests/survival/retries.yaml").read_text())
    defaults = yaml.safe_load(patch["data"]["workflowDefaults"])["spec"]["templateDefaults"]
    policy = defaults["retryStrategy"]
    assert f"policy {policy['retryPolicy']}, '{policy['expression']}'" in done.stdout


def test_where_is_not_what(tmp_path):
    """Another placement changes no input, command or default, so that KFP's cache key stays."""
    documents = []
    for profile in placement.PROFILES:
        write(RECIPES["tiny"](), tmp_path / "out.yaml", profile=profile)
        pipeline = next(iter(yaml.safe_load_all((tmp_path / "out.yaml").read_text())))
        for executor in pipeline["deploymentSpec"]["executors"].values():
            executor["container"].pop("resources")
            executor["container"].pop("env", None)  # preflight's, which is never cached
        for tasks in [pipeline["root"]["dag"]["tasks"], *graphs(pipeline)]:
            for task in tasks.values():
                # Longer attempts need a longer window; KFP's key holds no policy.
                task.get("retryPolicy", {}).pop("backoffMaxDuration", None)
        documents.append(pipeline)
    assert documents[0] == documents[1]


def test_stages_that_read_a_base_mount_the_volume_where_it_is(tmp_path):
    """Also those that train on several nodes, whose TrainJob mounts the same claim."""
    recipe = RECIPES["llada_8b"]()
    scheduling = placement.Scheduling(nodes={"sft": 2})
    write(recipe, tmp_path / "out.yaml", profile="gpu", scheduling=scheduling)
    pipeline, platform = yaml.safe_load_all((tmp_path / "out.yaml").read_text())
    checks = pipeline["deploymentSpec"]["executors"]["exec-preflight"]["container"]
    assert {"name": "CLAIMS", "value": "model-cache training"} in checks["env"]
    executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    mounting = {
        name.removeprefix("exec-").rstrip("-0123456789")
        for name, executor in executors.items()
        for mount in executor.get("pvcMount", [])
        if (mount["constant"], mount["mountPath"]) == placement.VOLUME
    }
    assert mounting == {*STAGES} - {"report"}


@pytest.mark.parametrize(
    ("mirror", "cache", "expected"),
    [
        ("/training/models", None, True),
        ("s3://bucket/models", "/training", True),
        ("s3://bucket/models", None, False),
        ("/trainings", None, False),
        (None, None, False),
    ],
)
def test_a_base_on_the_volume(mirror, cache, expected):
    config = DownloadConfig(model="OWNER/NAME", mirror=mirror, cache=cache)
    assert placement.on_volume(config) is expected
