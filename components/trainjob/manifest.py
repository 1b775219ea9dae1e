"""The TrainJob of a stage, as the dictionary that goes to the Kubernetes API.

The fields are those of trainer.kubeflow.org/v1alpha1 in Kubeflow Trainer 2.3. torchrun reads the
addresses of the nodes from variables PET_*, which the runtime's torch policy sets; Trainer refuses
a job that sets them itself.
"""

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from components import USER
from components.trainjob.config import TrainjobConfig

API_VERSION = "trainer.kubeflow.org/v1alpha1"
KIND = "TrainJob"
NODE = "node"  # name of the replicated job and of its container in Trainer's torch runtimes
LABELS = {"app.kubernetes.io/name": "trainjob"}  # manifests/base/network-policies.yaml selects it
GRACE = 120  # seconds in which a node that was told to stop saves its state


def build(
    name: str,
    config: TrainjobConfig,
    *,
    image: str,
    settings: Mapping[str, Any],
    inputs: Mapping[str, Sequence[Path]],
    outputs: Sequence[str],
    folder: Path,
    owners: Sequence[Mapping[str, str]] = (),
) -> dict[str, Any]:
    """The job that runs `config.stage` with `settings`, and writes the `outputs` into `folder`.

    All paths are on the shared volume. With its `owners`, the job goes as well.
    """
    arguments = ["-m", f"components.{config.stage}", "--config", json.dumps(settings)]
    for role, paths in {**inputs, **{role: (folder / role,) for role in outputs}}.items():
        arguments += [f"--{role.replace('_', '-')}", *map(str, paths)]
    metadata: dict[str, Any] = {"name": name, "labels": {**LABELS, **dict(config.labels)}}
    if owners:
        metadata["ownerReferences"] = [*owners]
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": metadata,
        "spec": {
            "runtimeRef": {"name": config.runtime, "kind": config.runtime_kind},
            "activeDeadlineSeconds": max(1, round(config.hours * 3600)),
            "trainer": _trainer(config, image, arguments, folder),
            "runtimePatches": [
                {"manager": "llada/trainjob", "trainingRuntimeSpec": _patch(config)}
            ],
        },
    }


def _trainer(
    config: TrainjobConfig, image: str, arguments: list[str], folder: Path
) -> dict[str, Any]:
    # Kubernetes restarts a failed node, and a stage may refuse outputs that an earlier try has
    # written. So the first node clears them before its torchrun starts; the torchruns of the other
    # nodes wait for that, so that nobody writes there yet.
    clear = f'[ "$PET_NODE_RANK" != 0 ] || rm -rf {shlex.quote(str(folder))}'
    resources: dict[str, Any] = {"cpu": config.cpu, "memory": config.memory}
    if config.gpus:
        resources[config.gpu] = str(config.gpus)
    variables: list[dict[str, Any]] = [{"name": "IMAGE", "value": image}]
    for variable, secret, key in config.secrets:
        source = {"secretKeyRef": {"name": secret, "key": key, "optional": True}}
        variables.append({"name": variable, "valueFrom": source})
    return {
        "image": image,
        "command": ["sh", "-c", f'{clear}; exec "$0" "$@"', "torchrun"],
        "args": arguments,
        "env": variables,
        "numNodes": config.nodes,
        "numProcPerNode": config.processes,
        "resourcesPerNode": {"requests": resources, "limits": resources},
    }


def _patch(config: TrainjobConfig) -> dict[str, Any]:
    """Additions to the runtime's pods: volumes, the machines they may run on, no privileges."""
    claim = {"persistentVolumeClaim": {"claimName": config.claim}}
    volumes: list[dict[str, Any]] = [{"name": "shared", **claim}]
    mounts = [{"name": "shared", "mountPath": config.directory}]
    if config.shared_memory:
        memory = {"medium": "Memory", "sizeLimit": config.shared_memory}
        volumes.append({"name": "shm", "emptyDir": memory})
        mounts.append({"name": "shm", "mountPath": "/dev/shm"})
    pod: dict[str, Any] = {
        "serviceAccountName": config.account,
        "terminationGracePeriodSeconds": GRACE,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumes": volumes,
        "containers": [
            {
                "name": NODE,
                "volumeMounts": mounts,
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "capabilities": {"drop": ["ALL"]},
                },
            }
        ],
    }
    if config.pool:
        pod["nodeSelector"] = dict(config.pool)
    if config.tolerations:
        pod["tolerations"] = [
            {"key": key, "operator": "Exists", "effect": "NoSchedule"} for key in config.tolerations
        ]
    template = {"metadata": {"labels": LABELS}, "spec": pod}
    job = {"name": NODE, "template": {"spec": {"template": template}}}
    return {"template": {"spec": {"replicatedJobs": [job]}}}
