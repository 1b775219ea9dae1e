"""The TrainJob that the stage makes, against the API of Kubeflow Trainer 2.3.

`kubeflow-trainer-api` is the Trainer release's own package (Apache-2.0): its models are generated
from the same Go types as the CRD. Their schema is closed here, so that an unknown field is refused,
as the API server does with strict validation. `validate` adds what the CRD says beyond types
(lengths, the name's form), and that PET_* are the admission webhook's own.
"""

import copy
import functools
import re
from importlib import metadata
from pathlib import Path

import jsonschema
import pytest
from kubeflow_trainer_api import models

from components import USER
from components.trainjob import manifest
from components.trainjob.config import TrainjobConfig
from pipelines import placement
from tests.components.kubernetes_server import WORKFLOW
from tests.manifests.test_overlays import MANIFESTS, build, named

RESERVED = "PET_"
QUANTITIES = ("IoK8sApimachineryPkgApiResourceQuantity",)  # text or number; a class in the models
FULL = TrainjobConfig(
    stage="sft",
    nodes=4,
    processes=8,
    gpus=8,
    labels=(("kueue.x-k8s.io/queue-name", "team"),),
    pool=(("llada/pool", "gpu"),),
    secrets=(("WANDB_API_KEY", "wandb", "api-key"),),
    runtime_kind="TrainingRuntime",
)
BARE = TrainjobConfig(gpus=0, shared_memory=None, tolerations=(), hours=0.0001)
CONFIGS = {"defaults": TrainjobConfig(), "full": FULL, "bare": BARE}


def made(config, name="sft-0123456789abcdef"):
    folder = Path("/training/trainjobs") / name
    return manifest.build(
        name,
        config,
        image="registry.example/llada@sha256:12",
        settings={"steps": 2},
        inputs={role: (folder / role,) for role in ("base", "dataset")},
        outputs=["trained", "metrics"],
        folder=folder / "outputs",
        owners=[WORKFLOW],
    )


@functools.cache
def schema():
    """The JSON schema of a TrainJob in which no object may have fields that it does not name."""
    found = models.TrainerV1alpha1TrainJob.model_json_schema(by_alias=True)
    for name in QUANTITIES:
        found["$defs"][name] = {"type": ["string", "number"]}
    for part in [found, *found["$defs"].values()]:
        if part.get("type") == "object":
            part["additionalProperties"] = part.get("additionalProperties", False)
    return found


def validate(job):
    """Raises where the API server would refuse the job."""
    jsonschema.validate(job, schema(), jsonschema.Draft202012Validator)
    spec = job["spec"]
    name = job["metadata"]["name"]
    assert re.fullmatch("[a-z]([-a-z0-9]*[a-z0-9])?", name) and len(name) <= 63
    assert spec["activeDeadlineSeconds"] >= 1
    trainer = spec["trainer"]
    assert len(trainer["image"]) <= 500 and len(trainer["args"]) <= 128
    assert all(len(argument) <= 65536 for argument in trainer["command"] + trainer["args"])
    names = [pair["name"] for pair in trainer["env"]]
    assert len(names) == len(set(names)) <= 128
    assert not any(name.startswith(RESERVED) for name in names)
    assert all(0 < len(patch["manager"]) <= 253 for patch in spec["runtimePatches"])


def pod_of(job):
    (patch,) = job["spec"]["runtimePatches"]
    (replicated,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    assert replicated["name"] == manifest.NODE
    return replicated["template"]["spec"]["template"]


def test_the_schema_is_of_the_release_that_the_stage_names():
    assert metadata.version("kubeflow-trainer-api") == "2.3.0"
    assert "Trainer 2.3" in manifest.__doc__


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_the_job_fits_the_schema(config):
    validate(made(config))


WRONG = {
    "spec/trainer/replicas": 2,
    "spec/trainer/numNodes": "2",
    "spec/trainer/command": "torchrun",
    "spec/podTemplateOverrides": [],
    "spec/runtimeRef": {},
    "spec/runtimePatches": [{"trainingRuntimeSpec": {}}],
    "spec/runtimePatches/0/trainingRuntimeSpec/spec": {},
    "spec/trainer/resourcesPerNode/limits": {"cpu": [8]},
    "spec/trainer/env": [{"value": "no name"}],
}


@pytest.mark.parametrize("path", WRONG)
def test_the_schema_refuses_what_is_wrong(path):
    job = copy.deepcopy(made(FULL))
    *parents, last = path.split("/")
    inner = job
    for key in parents:
        inner = inner[int(key) if key.isdigit() else key]
    inner[last] = WRONG[path]
    with pytest.raises(jsonschema.ValidationError):
        validate(job)


def test_the_models_keep_every_field():
    """What the package's own types read and write again is the same job."""
    for config in CONFIGS.values():
        assert models.TrainerV1alpha1TrainJob.from_dict(made(config)).to_dict() == made(config)


def test_no_root_no_privileges():
    pod = pod_of(made(FULL))["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == USER
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    (container,) = pod["containers"]
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_no_secret_is_in_the_job():
    job = made(FULL)
    (pair,) = [pair for pair in job["spec"]["trainer"]["env"] if "valueFrom" in pair]
    assert pair["valueFrom"]["secretKeyRef"] == {
        "name": "wandb",
        "key": "api-key",
        "optional": True,
    }
    assert placement.SECRETS["wandb"] == {"api-key": "WANDB_API_KEY"}


def test_checkpoints_in_a_store_need_no_configuration():
    """A job that is made by hand has the secret of every training stage, where there is one."""
    variables = {pair["name"]: pair for pair in made(TrainjobConfig())["spec"]["trainer"]["env"]}
    assert len(placement.SECRETS[placement.STORE]) == 5
    for key, variable in placement.SECRETS[placement.STORE].items():
        source = {"name": placement.STORE, "key": key, "optional": True}
        assert variables[variable]["valueFrom"] == {"secretKeyRef": source}


def test_job_and_manifests_agree():
    """The claim, the account, the rights and the policy that the job counts on are there."""
    documents = build(MANIFESTS / "overlays" / "gpu")
    claim = named(documents, "PersistentVolumeClaim", FULL.claim)
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    assert named(documents, "ServiceAccount", FULL.account)["automountServiceAccountToken"] is False
    policy = named(documents, "NetworkPolicy", "training-nodes")["spec"]
    labels = pod_of(made(FULL))["metadata"]["labels"]
    assert policy["podSelector"]["matchLabels"].items() <= labels.items()
    rules = named(documents, "Role", "llada-pipeline")["rules"]
    rights = {resource: rule["verbs"] for rule in rules for resource in rule["resources"]}
    assert rights["trainjobs"] == ["create", "get", "delete"]
    assert "list" in rights["pods"] and rights["pods/log"] == ["get"]
    assert rights["persistentvolumeclaims"] == ["get"]


def test_the_placement_knows_the_claim_of_the_manifests():
    assert placement.JOB.shared == (FULL.claim, FULL.directory)
    assert placement.JOB.hours > placement.GPU.hours
