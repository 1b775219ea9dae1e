"""Runs a training stage on several nodes: check, share, train, collect.

The nodes run the stage's own command, which writes its own records. Inputs and outputs are on a
volume that this pod mounts as well. This pod only waits, so torch is not imported here.
"""

import dataclasses
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

from components import artifact, atomic, coerce
from components.artifact import Input, Output
from components.failure import Failed
from components.pretrain.config import PretrainConfig
from components.sft.config import SftConfig
from components.trainjob import manifest
from components.trainjob.cluster import Cluster, Unavailable
from components.trainjob.config import Stage, TrainjobConfig
from components.trainjob.job import Job
from model.options import check
from model.training.config import Training
from model.training.preemption import Interruption, Preempted

CONFIGS: dict[Stage, type[Training]] = {"pretrain": PretrainConfig, "sft": SftConfig}


def run(
    config: TrainjobConfig,
    *,
    settings: dict,
    base: Input,
    dataset: Input,
    trained: Output,
    metrics: Output,
) -> None:
    """Runs `config.stage` with `settings` as a TrainJob and copies its outputs to this stage's own.

    Raises ValueError for settings, a cluster, a claim or a runtime that cannot work, Failed if the
    job fails, Preempted if this process was asked to stop.
    """
    check_settings(config, settings)
    inputs, outputs = {"base": base, "dataset": dataset}, {"trained": trained, "metrics": metrics}
    name = name_of(config, settings, inputs, trained)
    folder = Path(config.directory) / "trainjobs" / name
    check("directory", config.directory, folder.parents[1].is_dir(), "where the claim is mounted")
    shared = {role: folder / role for role in inputs}
    with Interruption() as stop:
        try:
            cluster = Cluster(config.namespace)
            cluster.check_claim(config.claim)
            image = config.image or cluster.own_image()
            job = Job(cluster, name, poll=config.poll, stop=stop)
            for role, path in inputs.items():
                _share(path, shared[role], stop)
            job.start(
                manifest.build(
                    name,
                    config,
                    image=image,
                    settings=settings,
                    inputs=shared,
                    outputs=folder / "outputs",
                )
            )
            job.follow()
        except Unavailable as error:
            raise ValueError(str(error)) from None
        except Preempted:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        for role, path in outputs.items():
            _collect(folder / "outputs" / role, path, config.stage, inputs)
        job.delete()
        shutil.rmtree(folder, ignore_errors=True)


def check_settings(config: TrainjobConfig, settings: dict[str, Any]) -> None:
    """Raises ValueError for settings that the nodes would refuse, perhaps hours later."""
    built = coerce.build(CONFIGS[config.stage], settings)
    processes = config.nodes * config.processes
    unit = built.micro_batch_size * processes
    allowed = f"a multiple of micro_batch_size times {processes} processes, {unit}"
    check("settings.batch_size", built.batch_size, built.batch_size % unit == 0, allowed)


def name_of(
    config: TrainjobConfig, settings: dict[str, Any], inputs: dict[str, Path], output: Path
) -> str:
    """The job's name: the same for every try of a step, different for any other step.

    The path of an output tells steps apart that are otherwise equal: it holds the ids of KFP's run
    and task.
    """
    identity = {
        "config": dataclasses.asdict(config),
        "settings": settings,
        "inputs": {role: artifact.read(path)["fingerprint"] for role, path in inputs.items()},
        "output": str(output.absolute()),
    }
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    return f"{config.stage}-{digest[:16]}"


def _share(source: Path, target: Path, stop: Interruption) -> None:
    """Copies an input to the volume, whole or not at all, unless an earlier try has done so."""
    if target.exists():
        return
    atomic.remove_drafts(target)

    def copy(file: str, to: str) -> None:
        if stop.is_requested:
            raise Preempted("while the inputs were copied; no trainjob was created")
        shutil.copyfile(file, to)

    with atomic.replacing(target) as draft:
        shutil.copytree(source, draft, copy_function=copy)


def _collect(source: Path, target: Path, stage: str, inputs: dict[str, Path]) -> None:
    """Copies an output of the job. Raises Failed unless it is this stage's on these inputs.

    The record is copied last, under its own name at the very end: its presence means complete.
    """
    try:
        record = artifact.verify(source)
    except artifact.ArtifactError as error:
        raise Failed(f"the trainjob is complete, its output is not: {error}") from None
    expected = {role: artifact.read(path)["fingerprint"] for role, path in inputs.items()}
    actual = {role: entry["fingerprint"] for role, entry in record["inputs"].items()}
    if (record["stage"], actual) != (stage, expected):
        raise Failed(f"{source}: made by {record['stage']} from other inputs")
    for file in sorted(record["files"]):
        (target / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / file, target / file)
    with atomic.replacing(target / artifact.RECORD) as draft:
        shutil.copyfile(source / artifact.RECORD, draft)
