"""Runs a training stage on several nodes: check, share, train, collect.

The nodes run the stage's own command and write its own records; they see inputs and outputs on a
volume that this pod mounts as well. No torch here: this pod waits, and needs little.
"""

import dataclasses
import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

from components import artifact, coerce
from components.artifact import Input, Output
from components.failure import Failed
from components.pretrain.config import PretrainConfig
from components.sft.config import SftConfig
from components.trainjob import manifest
from components.trainjob.cluster import Cluster, Lost
from components.trainjob.config import TrainjobConfig
from components.trainjob.job import Job
from model.options import check
from model.training.config import Training
from model.training.preemption import Interruption, Preempted

CONFIGS: dict[str, type[Training]] = {"pretrain": PretrainConfig, "sft": SftConfig}


def run(
    config: TrainjobConfig,
    *,
    settings: dict,
    base: Input,
    dataset: Input,
    trained: Output,
    metrics: Output,
) -> None:
    """Runs `config.stage` with `settings` as a TrainJob and returns what the stage returns."""
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
        except Lost as error:
            raise ValueError(str(error)) from None
        except Preempted:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        for role, path in outputs.items():
            _collect(folder / "outputs" / role, path, config.stage, inputs)
        job.delete()
        shutil.rmtree(folder, ignore_errors=True)


def check_settings(config: TrainjobConfig, settings: dict[str, Any]) -> None:
    """Refuses settings that the stage, or so many processes, would refuse hours later."""
    built = coerce.build(CONFIGS[config.stage], settings)
    processes = config.nodes * config.processes
    unit = built.micro_batch_size * processes
    allowed = f"a multiple of micro_batch_size times {processes} processes, {unit}"
    check("settings.batch_size", built.batch_size, built.batch_size % unit == 0, allowed)


def name_of(
    config: TrainjobConfig, settings: dict[str, Any], inputs: dict[str, Path], output: Path
) -> str:
    """The job's name: the same for each try of a step of a run, another for any other step.

    The place of an output is the run's: KFP puts the run's and the task's id into it.
    """
    what = {
        "config": dataclasses.asdict(config),
        "settings": settings,
        "inputs": {role: artifact.read(path)["fingerprint"] for role, path in inputs.items()},
        "output": str(output.absolute()),
    }
    digest = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()
    return f"{config.stage}-{digest[:16]}"


def _share(source: Path, target: Path, stop: Interruption) -> None:
    """Copies an input onto the volume, whole or not at all, unless an earlier try has."""
    if target.exists():
        return
    draft = target.with_name(f"{target.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)

    def copy(file: str, to: str) -> None:
        if stop.is_requested:
            raise Preempted("while the inputs were copied; no trainjob was created")
        shutil.copyfile(file, to)

    shutil.copytree(source, draft, copy_function=copy)
    draft.rename(target)


def _collect(source: Path, target: Path, stage: str, inputs: dict[str, Path]) -> None:
    """Copies an output of the job, once it is the complete work of this stage on these inputs."""
    try:
        record = artifact.verify(source)
    except artifact.ArtifactError as error:
        raise Failed(f"the trainjob is complete, its output is not: {error}") from None
    expected = {role: artifact.read(path)["fingerprint"] for role, path in inputs.items()}
    found = {role: entry["fingerprint"] for role, entry in record["inputs"].items()}
    if (record["stage"], found) != (stage, expected):
        raise Failed(f"{source}: made by {record['stage']} from other inputs")
    for file in sorted(record["files"]):
        (target / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / file, target / file)
    draft = target / f"{artifact.RECORD}.draft"
    shutil.copyfile(source / artifact.RECORD, draft)
    os.replace(draft, target / artifact.RECORD)
