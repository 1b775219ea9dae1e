"""Gives tasks their placements: what `placement` says of a stage becomes settings of its pod."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import replace

from kfp import dsl, kubernetes

from components import USER
from components.cli import TRAINJOB
from components.trainjob.config import TrainjobConfig
from pipelines.placement import (
    HOUR,
    JOB,
    PAUSE,
    PROFILES,
    SECRETS,
    VOLUME,
    WEIGHTS,
    Placement,
    Scheduling,
    claims,
    limits,
)


def placer(
    profile: str, scheduling: Scheduling, *, volume: bool = False
) -> Callable[..., dsl.PipelineTask]:
    """A function that gives a task the placement of its stage in the profile, and a display name.

    Its `name` is the display name; None leaves the task's own. With `volume`, every stage in
    WEIGHTS mounts VOLUME.
    """

    def placed(task: dsl.PipelineTask, *, name: str | None = None) -> dsl.PipelineTask:
        stage = task.component_spec.name
        wanted = scheduling.of(PROFILES[profile][stage])
        if stage in scheduling.nodes:
            job = trainjob(stage, wanted, scheduling.nodes[stage], scheduling.labels)
            values = json.dumps(dataclasses.asdict(job), sort_keys=True)
            task.set_env_variable(TRAINJOB, values)
            wanted = replace(JOB, retries=wanted.retries, reuse=wanted.reuse)
        if volume and stage in WEIGHTS:
            wanted = replace(wanted, shared=VOLUME)
        place(task, wanted)
        if stage == "preflight":
            task.set_env_variable("PLACEMENT", json.dumps(limits(profile, scheduling.nodes)))
            if names := claims(profile, scheduling, volume=volume):
                task.set_env_variable("CLAIMS", " ".join(names))
        for label, value in scheduling.labels.items():
            kubernetes.add_pod_label(task, label, value)
        return task if name is None else task.set_display_name(name)

    return placed


def trainjob(
    stage: str, placement: Placement, nodes: int, labels: Mapping[str, str]
) -> TrainjobConfig:
    """The TrainJob of pods that are placed as the stage's own pod would be.

    The stage's pod creates it and waits. Of the cache key it changes the claim alone.
    """
    assert JOB.shared is not None
    claim, directory = JOB.shared
    return TrainjobConfig(
        stage=stage,  # type: ignore[arg-type]
        nodes=nodes,
        processes=max(placement.gpus, 1),
        gpus=placement.gpus,
        gpu=placement.gpu,
        cpu=placement.cpu[1],
        memory=placement.memory,
        shared_memory=placement.shared_memory,
        labels=tuple(labels.items()),
        pool=tuple(placement.nodes.items()),
        tolerations=placement.tolerations,
        claim=claim,
        directory=directory,
        secrets=tuple(
            (variable, secret, key)
            for secret in placement.secrets
            for key, variable in SECRETS[secret].items()
        ),
        hours=placement.hours,
    )


def place(task: dsl.PipelineTask, placement: Placement) -> dsl.PipelineTask:
    """Applies a placement to a task."""
    task.set_cpu_request(placement.cpu[0]).set_cpu_limit(placement.cpu[1])
    task.set_memory_request(placement.memory).set_memory_limit(placement.memory)
    if placement.gpus:
        task.set_accelerator_type(placement.gpu).set_accelerator_limit(placement.gpus)
    for label, value in placement.nodes.items():
        kubernetes.add_node_selector(task, label, value)
    for key in placement.tolerations:
        kubernetes.add_toleration(task, key=key, operator="Exists", effect="NoSchedule")
    if placement.shared_memory:
        kubernetes.empty_dir_mount(
            task, "shm", "/dev/shm", medium="Memory", size_limit=placement.shared_memory
        )
    if placement.cache:
        kubernetes.mount_pvc(task, placement.cache, "/cache/huggingface")  # HF_HOME of the image
    if placement.shared:
        kubernetes.mount_pvc(task, *placement.shared)
    for secret in placement.secrets:
        kubernetes.use_secret_as_env(task, secret, SECRETS[secret], optional=True)
    kubernetes.set_security_context(task, run_as_user=USER, run_as_group=USER, run_as_non_root=True)
    kubernetes.set_timeout(task, placement.hours * HOUR)
    task.set_caching_options(placement.reuse)
    if not placement.retries:
        return task
    return task.set_retry(
        placement.retries,
        backoff_duration=PAUSE,
        backoff_factor=1,
        backoff_max_duration=f"{placement.window}s",
    )
