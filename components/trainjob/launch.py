"""Trains a stage on several nodes in this process's place: check, share, train, collect.

The nodes run the stage's own command, which writes its own records. Inputs and outputs are on a
volume that this pod mounts as well. This pod only waits, so torch is not imported here.
"""

import dataclasses
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components import artifact, atomic
from components.failure import Failed
from components.trainjob import manifest
from components.trainjob.cluster import Cluster, Unavailable
from components.trainjob.config import TrainjobConfig, fit
from components.trainjob.job import Job
from model.options import check
from model.training.config import Resumable
from model.training.preemption import Interruption, Preempted

Paths = tuple[Path, ...]
OWNER = "the Job training-owner of manifests/gpu hands a new claim to the stages' group"


def launch(
    config: TrainjobConfig,
    settings: Resumable,
    inputs: Mapping[str, Path | Paths],
    outputs: Mapping[str, Path],
) -> None:
    """Runs `config.stage` with `settings` as a TrainJob and copies its outputs to `outputs`.

    Raises ValueError for settings, a cluster, a claim or a runtime that cannot work, Failed if the
    job fails, Preempted if this process was asked to stop.
    """
    settings = fit(settings, nodes=config.nodes, processes=config.processes)
    if (
        settings.checkpoint_uri is None
    ):  # a node that is lost should cost minutes; the claim is there
        kept = f"{config.directory.rstrip('/')}/checkpoints"
        settings = dataclasses.replace(settings, checkpoint_uri=kept)
    own = {role: path if isinstance(path, tuple) else (path,) for role, path in inputs.items()}
    name = name_of(config, settings, own, next(iter(outputs.values())))
    folder = Path(config.directory) / "trainjobs" / name
    check_directory(config.directory)
    shared = {role: tuple(_places(folder, role, len(paths))) for role, paths in own.items()}
    with Interruption() as stop:
        try:
            cluster = Cluster(config.namespace)
            cluster.check_claim(config.claim)
            pod = cluster.own_pod()
            image = config.image or (pod.image if pod else None)
            check("image", image, bool(image), "an image, as this is not a pod of a pipeline")
            assert image is not None
            job = Job(cluster, name, poll=config.poll, stop=stop)
            for role, paths in own.items():
                for path, place in zip(paths, shared[role], strict=True):
                    _share(path, place, stop)
            job.start(
                manifest.build(
                    name,
                    config,
                    image=image,
                    settings=dataclasses.asdict(settings),
                    inputs=shared,
                    outputs=[*outputs],
                    folder=folder / "outputs",
                    owners=pod.owners if pod else [],
                )
            )
            job.follow()
        except Unavailable as error:
            raise ValueError(str(error)) from None
        except Preempted:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        for role, path in outputs.items():
            _collect(folder / "outputs" / role, path, config.stage, own)
        job.delete()
        shutil.rmtree(folder, ignore_errors=True)


def check_directory(directory: str) -> None:
    """Raises ValueError unless this process can write where the claim is mounted."""
    check("directory", directory, Path(directory).is_dir(), "where the claim is mounted")
    try:
        with tempfile.TemporaryFile(dir=directory):
            return
    except OSError as error:
        raise ValueError(
            f"directory={directory!r}: user {os.getuid()} of this pod cannot write there: "
            f"{error.strerror}; {OWNER}"
        ) from None


def name_of(
    config: TrainjobConfig, settings: Resumable, inputs: Mapping[str, Paths], output: Path
) -> str:
    """The job's name: the same for every try of a step, different for any other step.

    The path of an output tells steps apart that are otherwise equal: it holds the ids of KFP's run
    and task.
    """
    identity = {
        "config": dataclasses.asdict(config),
        "settings": dataclasses.asdict(settings),
        "inputs": {role: [_fingerprint(path) for path in paths] for role, paths in inputs.items()},
        "output": str(output.absolute()),
    }
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    return f"{config.stage}-{digest[:16]}"


def _fingerprint(path: Path) -> Any:
    return artifact.read(path)["fingerprint"]


def _places(folder: Path, role: str, count: int) -> list[Path]:
    """Where the inputs of a role are on the volume."""
    numbers = range(1, count + 1)
    return [folder / (role if number == 1 else f"{role}-{number}") for number in numbers]


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


def _collect(source: Path, target: Path, stage: str, inputs: Mapping[str, Paths]) -> None:
    """Copies an output of the job. Raises Failed unless it is this stage's on these inputs.

    The record is copied last, under its own name at the very end: its presence means complete.
    """
    try:
        record = artifact.verify(source)
    except artifact.ArtifactError as error:
        raise Failed(f"the trainjob is complete, its output is not: {error}") from None
    expected = sorted(_fingerprint(path) for paths in inputs.values() for path in paths)
    actual = sorted(entry["fingerprint"] for entry in record["inputs"].values())
    if (record["stage"], actual) != (stage, expected):
        raise Failed(f"{source}: made by {record['stage']} from other inputs")
    for file in sorted(record["files"]):
        (target / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / file, target / file)
    with atomic.replacing(target / artifact.RECORD) as draft:
        shutil.copyfile(source / artifact.RECORD, draft)
