"""The record of a complete output directory: `.artifact.json`, written last.

A directory without it is not complete. It holds the stage, its configuration, fingerprints of the
inputs, every file with size and checksum, versions, and the lineage: the stages before it.
`records` has its form. Local paths only.
"""

import dataclasses
import hashlib
import os
import platform
import resource
import stat
import subprocess
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

from components import atomic, records

RECORD = ".artifact.json"
CLAIM = ".unfinished"  # marks an output that is not complete yet (`outputs`)
METRICS = "metrics.jsonl"
PACKAGES = ("torch", "transformers", "peft", "accelerate", "tokenizers", "lm_eval", "kfp")
STARTED = time.monotonic()

Input = Annotated[Path, "input"]
OptionalInput = Annotated[Path | None, "input"]
"""An input that a pipeline without the stage before it does not have."""
Inputs = Annotated[tuple[Path, ...], "inputs"]
"""Any number of inputs of one kind, in their order. KFP's container components take no such list
as an artifact, so that only the command line offers them."""
Output = Annotated[Path, "output"]
OutputFile = Annotated[Path, "output file"]
"""A page that the Kubeflow UI shows. No stage reads it, so it has no record."""
Parameter = Annotated[Path, "output parameter"]
"""A file with one JSON value, which conditions of the pipeline read."""


class ArtifactError(ValueError):
    """A directory that is not a complete artifact, or that differs from its record."""


@dataclasses.dataclass(frozen=True)
class References:
    """Files of an artifact that are elsewhere (`references.py` reads them)."""

    files: dict[str, dict[str, Any]]
    """The size and the sha256 of each, by its name."""
    places: dict[str, Any]
    """Under `files` the location of each, and under `cache` where a node may keep copies, or null.
    They are no part of the fingerprint: the same files elsewhere are the same artifact."""


NONE: Mapping[str, References] = {}
Signature = dict[str, tuple[int, ...]]
_VERIFIED: dict[Path, tuple[dict[str, Any], Signature]] = {}
"""What this process has verified, by absolute path: the record and the state of the files then."""


def read(path: Path) -> dict[str, Any]:
    """The record of a complete artifact. Raises ArtifactError naming what is missing or changed."""
    if not path.is_dir():
        raise ArtifactError(f"{path}: no such directory")
    file = path / RECORD
    try:
        mode, size = file.lstat().st_mode, file.lstat().st_size
    except FileNotFoundError:
        raise ArtifactError(
            f"{path}: no {RECORD}, so it is incomplete or was not made by a stage; "
            "models and data from elsewhere enter through the download stage"
        ) from None
    if not stat.S_ISREG(mode) or size > records.LARGEST:
        raise ArtifactError(
            f"{file}: not a record, allowed: a file of up to {records.LARGEST} bytes"
        )
    try:
        return records.parse(file.read_bytes())
    except ValueError as error:
        raise ArtifactError(f"{file}: not a record: {error}") from None


def verify(path: Path) -> dict[str, Any]:
    """The record, after every file was compared with it by size and checksum.

    Raises ArtifactError naming the first file that differs. A stage's own record names this one,
    whatever is at the path by then.
    """
    record = read(path)
    before = _signature(path)
    _compare(path, record)
    _VERIFIED[path.absolute()] = (record, before)
    return record


def _compare(path: Path, record: Mapping[str, Any]) -> None:
    # Files that are elsewhere are compared where they are read (`references`).
    elsewhere = record.get("references", {}).get("files", {})
    expected = {name: facts for name, facts in record["files"].items() if name not in elsewhere}
    present = {file.relative_to(path).as_posix() for file in _files(path)}
    if missing := sorted(expected.keys() - present):
        raise ArtifactError(f"{path}: {missing[0]} is missing")
    if extra := sorted((present | _others(path)) - expected.keys() - _folders(expected)):
        raise ArtifactError(f"{path}: {extra[0]} is not in its record")
    for name, facts in expected.items():
        if (size := (path / name).stat().st_size) != facts["bytes"]:
            raise ArtifactError(f"{path / name}: {size} bytes, its record says {facts['bytes']}")
        if checksum(path / name) != facts["sha256"]:
            raise ArtifactError(f"{path / name}: its sha256 is not the one in its record")


def _parent(path: Path) -> dict[str, Any]:
    """The record of an input as the stage read it. Raises ArtifactError if it has changed since."""
    now = read(path)
    record, before = _VERIFIED.get(path.absolute(), (now, None))
    if now != record:
        raise ArtifactError(
            f"{path}: another artifact took its place while the stage ran, "
            f"allowed: {record['fingerprint'][:12]}, with which it began"
        )
    if before is not None and before != _signature(path):
        _compare(path, record)
    return record


def provenance(record: Mapping[str, Any]) -> dict[str, Any]:
    """The facts for a catalogue: base model, its parameters, tokens trained on, commit."""
    facts: dict[str, Any] = {"commit": record["git_commit"] or "unknown"}
    executions = {records.execution_key(entry): entry for entry in record["lineage"]}
    tokens = [entry["summary"].get("tokens") or 0 for entry in executions.values()]
    facts["tokens"] = sum(count for count in tokens if isinstance(count, int | float))
    if entry := origin(record):
        model, revision = entry["config"].get("model"), entry["config"].get("revision")
        parameters = entry["summary"].get("parameters")
        if not isinstance(model, str) or not isinstance(parameters, int):
            raise ArtifactError(
                "a record's lineage has a download without its model's name or size"
            )
        facts["base_model"] = f"{model}@{revision}" if revision else model
        facts["parameters"] = parameters
    return facts


def origin(record: Mapping[str, Any]) -> dict[str, Any] | None:
    """The download that made or fetched the model, in the lineage; data may have another one."""
    downloads = [entry for entry in record["lineage"] if entry["stage"] == "download"]
    return max(downloads, key=lambda entry: entry["output"] == "model", default=None)


def record(
    outputs: Mapping[str, Path],
    *,
    stage: str,
    config: Any,
    inputs: Mapping[str, Path],
    summary: Mapping[str, Any],
    references: Mapping[str, References] = NONE,
) -> None:
    """Completes the outputs of a stage: writes each one's record, the last file of its directory.

    `summary` holds the stage's figures (steps, loss, accuracy, ...). The seconds since the process
    started are added, and the peak memory of this process or of a child, whichever is larger.
    `references` are, by output, the files that belong to it and stay elsewhere.
    """
    parents = {name: _parent(path) for name, path in inputs.items()}
    who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    usage = max(resource.getrusage(which).ru_maxrss for which in who) * 1024
    seconds = round(time.monotonic() - STARTED, 3)
    facts = {**summary, "seconds": seconds, "peak_memory_bytes": usage}
    common = {
        "format": records.FORMAT,
        "stage": stage,
        "config": dataclasses.asdict(config),
        "inputs": {
            name: {key: parent[key] for key in ("stage", "output", "fingerprint")}
            for name, parent in parents.items()
        },
        "summary": facts,
        "packages": versions(),
        "python": platform.python_version(),
        "git_commit": commit(),
        "image": os.environ.get("IMAGE"),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    for name, path in outputs.items():
        files = {
            file.relative_to(path).as_posix(): {
                "sha256": checksum(file),
                "bytes": file.stat().st_size,
            }
            for file in sorted(_files(path))
        }
        place = {}
        if name in references:
            files |= references[name].files
            place = {"references": references[name].places}
        own = {"stage": stage, "output": name}
        lineage = _lineage(parents.values())
        lineage.append({**own, "fingerprint": "", "config": common["config"], "summary": facts})
        content = {**common, **own, **place, "files": files, "lineage": lineage}
        content = records.sealed(content)
        atomic.flush(path)  # the record may not reach the disk before what it speaks of
        atomic.write_json(path / RECORD, content)


def checksum(file: Path) -> str:
    """The sha256 of a file, in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _files(path: Path) -> list[Path]:
    """All files below a directory but its record and claim. OSError if a folder is unreadable."""
    own = (path / RECORD, path / CLAIM)
    return [file for file in entries(path) if _is_regular(file) and file not in own]


def _others(path: Path) -> set[str]:
    """The relative names of all below a directory that is no file: links, pipes, folders."""
    return {entry.relative_to(path).as_posix() for entry in entries(path) if not _is_regular(entry)}


def _folders(files: Mapping[str, Any]) -> set[str]:
    """The folders that files of these relative names are in."""
    return {parent.as_posix() for name in files for parent in Path(name).parents}


def entries(path: Path) -> Iterator[Path]:
    """Everything below a directory; links are not followed.

    Raises OSError if a folder is unreadable, and ArtifactError for folders that are nested deeper
    than any name of a file can say.
    """
    try:
        for folder, folders, files in os.walk(path, onerror=_raise):
            yield from (Path(folder, name) for name in (*folders, *files))
    except RecursionError:
        raise ArtifactError(f"{path}: its folders are nested too deeply") from None


def _is_regular(path: Path) -> bool:
    return stat.S_ISREG(path.lstat().st_mode)


def _signature(path: Path) -> Signature:
    """What changes with every file below a directory that is written or replaced."""
    facts = {file.relative_to(path).as_posix(): file.lstat() for file in _files(path)}
    return {name: (each.st_ino, each.st_size, each.st_mtime_ns) for name, each in facts.items()}


def _raise(error: OSError) -> None:
    raise error


def _lineage(parents: Any) -> list[dict[str, Any]]:
    """Every ancestor once, in the order of the parents' lineages."""
    ancestors: dict[tuple, dict[str, Any]] = {}
    for parent in parents:
        for entry in parent["lineage"]:
            key = (entry["stage"], entry["output"], entry["fingerprint"])
            ancestors.setdefault(key, entry)
    return list(ancestors.values())


def versions() -> dict[str, str]:
    """The versions of the packages that results depend on, by name."""
    installed = {}
    for package in PACKAGES:
        try:
            installed[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return installed


def commit() -> str | None:
    """The commit of the code: from SOURCE_COMMIT in an image, from git in a checkout."""
    if variable := os.environ.get("SOURCE_COMMIT"):
        return variable
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
