"""Claims on the outputs of a running stage, which tell its left-overs from a person's files.

A claim is a hidden file in an output directory that names the stage and the output. The process
holds a lock on it as long as it lives, and removes it once every output has its record. So the same
command works again after a stage was stopped or killed: its left-overs are removed, but for the
answers that an evaluation goes on with. A directory
with any other file is refused, and nothing in it is touched. `artifact` writes the records.
"""

import contextlib
import errno
import fcntl
import fnmatch
import json
import os
import stat
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from components import artifact, atomic, claimants
from components.artifact import CLAIM, METRICS, RECORD, ArtifactError

# The files that stages write into each output, by relative path; folders end with a slash. Any
# other file belongs to a person, even in an output that is not complete, and is never removed.
NUMBER = "[0-9]" * 5
WEIGHTS = ("model.safetensors", f"model-{NUMBER}-of-{NUMBER}.safetensors")
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.json")
TEMPLATES = ("added_tokens.json", "chat_template.json", "chat_template.jinja")
CONFIGS = ("config.json", "generation_config.json", "model.safetensors.index.json")
MODEL = (*WEIGHTS, *TOKENIZER, *TEMPLATES, *CONFIGS)
PARTS = ("pretrain.jsonl", "sft.jsonl", "preferences.jsonl", "problems.jsonl", "test.jsonl")
SHARDS = ("manifest.json", f".manifest.json{atomic.DRAFT}", "lengths.bin", f"tokens-{NUMBER}.bin")
DATASET = (*PARTS, "report.json", "report.md", *(f"pretrain/{name}" for name in ("", *SHARDS)))
KEPT = f"answers-{'[0-9a-f]' * 8}.jsonl"  # finished requests: a stage that is taken up reads them
WRITTEN = {
    "model": MODEL,
    "dataset": DATASET,
    "trained": (*MODEL, "adapter_config.json", "adapter_model.safetensors"),
    "metrics": (METRICS,),
    "evaluation": ("results.json", "samples.jsonl", "traces.jsonl", KEPT),
    "release": (*MODEL, "README.md"),
    "report": ("report.json", "report.html"),
}
LARGEST = 1 << 20  # bytes of a claim that are read
PATIENCE = 5.0  # seconds for a claim that is locked and says nothing yet
RECORDS = (RECORD, f"{RECORD}{atomic.DRAFT}")
DRAFT = f".draft-{'[a-z0-9_]' * 8}/"  # where a model is written before it moves to its place


@contextlib.contextmanager
def claimed(
    stage: str, directories: Mapping[str, Path], files: Mapping[str, Path]
) -> Iterator[None]:
    """Makes the outputs of `stage`, without left-overs, and holds the claims within the block.

    Of left-overs only finished requests stay (`KEPT`), which are no part of a complete output.

    Raises as `check` does, and ArtifactError if another process holds one of them.
    """
    check(stage, directories, files)
    with contextlib.ExitStack() as stack:
        for path in directories.values():
            path.mkdir(parents=True, exist_ok=True)
            stack.enter_context(_locked(path))
        check(stage, directories, files)  # again: only now can no other process change them
        places = [str(file.absolute()) for file in files.values()]
        for name, path in directories.items():
            for entry in _left_overs(stage, name, path):
                if not fnmatch.fnmatchcase(entry.relative_to(path).as_posix(), KEPT):
                    entry.rmdir() if entry.is_dir() else entry.unlink()
            claim = {"stage": stage, "output": name, "files": places, **claimants.facts()}
            with _opened(path, os.O_WRONLY | os.O_TRUNC) as stream:
                stream.write(json.dumps(claim).encode())
        for file in files.values():
            file.parent.mkdir(parents=True, exist_ok=True)
        try:
            with claimants.touching([path / CLAIM for path in directories.values()]):
                yield
        finally:
            _release(directories.values())


def check(
    stage: str,
    directories: Mapping[str, Path],
    files: Mapping[str, Path],
    inputs: Iterable[Path] = (),
) -> None:
    """Raises ArtifactError unless every output is new or holds only left-overs of `stage`.

    Names the path that is complete, holds anything else, or is used twice. Changes nothing.
    """
    _refuse_twice([*directories.values()], [*inputs])
    for name, path in directories.items():
        _left_overs(stage, name, path)
    if directories and all((path / RECORD).exists() for path in directories.values()):
        raise ArtifactError(_used(next(iter(directories.values()))))
    claims = [_read(path) for path in directories.values()]
    ours = {place for claim in claims for place in claim.get("files", [])}
    for file in files.values():
        if file.exists() and file != Path(os.devnull) and str(file.absolute()) not in ours:
            raise ArtifactError(f"{file}: exists; an output goes to a new file")


def _refuse_twice(outputs: list[Path], inputs: list[Path]) -> None:
    for number, path in enumerate(outputs):
        for other in (*outputs[:number], *outputs[number + 1 :], *inputs):
            # Not `Path.resolve`, which raises where links go in a circle.
            own, its = (Path(os.path.realpath(each)) for each in (path, other))
            if own == its or its in own.parents:
                raise ArtifactError(
                    f"{path}: is or lies in {other}; an output goes to a directory of its own"
                )


def _left_overs(stage: str, name: str, path: Path) -> list[Path]:
    """The left-overs in a directory, the content of a folder before the folder."""
    if path.exists() and not path.is_dir():
        raise ArtifactError(f"{path}: not a directory")
    entries = sorted(artifact.entries(path), reverse=True) if path.exists() else []
    entries = [entry for entry in entries if entry != path / CLAIM]
    claim = _read(path)
    if entries and (claim.get("stage"), claim.get("output")) != (stage, name):
        raise ArtifactError(_used(path))
    for entry in entries:
        relative = entry.relative_to(path).as_posix() + ("/" if entry.is_dir() else "")
        if entry.is_symlink() or not _is_written(name, relative):
            raise ArtifactError(f"{_used(path)}; {entry.name} is no left-over of {stage}")
    return entries


def _is_written(output: str, name: str) -> bool:
    """Whether stages write a file or folder with this relative name into the output."""
    names = WRITTEN.get(output, ())
    drafts = (DRAFT, *(DRAFT + each for each in (*names, "README.md")))
    return any(fnmatch.fnmatchcase(name, each) for each in (*names, *RECORDS, *drafts))


def _used(path: Path) -> str:
    return f"{path}: not empty; an output goes to a new or empty directory"


def _read(path: Path) -> dict[str, Any]:
    """The claim on a directory, empty if there is none, or if it was cut short or is of no stage.

    Raises ArtifactError if what bears its name is no file.
    """
    try:
        with _opened(path, os.O_RDONLY) as stream:
            claim = json.loads(stream.read(LARGEST))
    except (FileNotFoundError, ValueError, RecursionError) as error:
        if isinstance(error, ArtifactError):
            raise
        return {}
    places = claim.get("files", []) if isinstance(claim, dict) else None
    is_claim = isinstance(places, list) and all(isinstance(place, str) for place in places)
    return claim if is_claim else {}


def _opened(path: Path, flags: int) -> BinaryIO:
    """The claim on a directory, open for reading or writing.

    Raises ArtifactError if no file is there: a link would lead out of the output, and a pipe would
    be waited for without an end.
    """
    file, number = path / CLAIM, -1
    try:
        number = os.open(file, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
        is_file = stat.S_ISREG(os.fstat(number).st_mode)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENXIO, errno.EISDIR):
            raise
        is_file = False
    if not is_file:
        if number >= 0:
            os.close(number)
        raise ArtifactError(f"{file}: allowed: a file; a link, folder or pipe is there")
    return os.fdopen(number, "rb" if flags == os.O_RDONLY else "wb")


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Locks the claim; the system releases the lock however this process ends."""
    with _opened(path, os.O_WRONLY | os.O_CREAT) as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ArtifactError(_taken(path)) from None
        # A process that ends removes its claim, which this one may have opened just before.
        is_released = not (path / CLAIM).exists() or not os.path.samestat(
            os.fstat(stream.fileno()), (path / CLAIM).stat()
        )
        if is_released or claimants.is_elsewhere(_read(path), path / CLAIM):
            raise ArtifactError(_taken(path))
        yield


def _taken(path: Path) -> str:
    """Says which process it is once its claim does, which it writes after it has locked it."""
    end = time.monotonic() + PATIENCE
    while not (claim := _read(path)) and (path / CLAIM).exists() and time.monotonic() < end:
        time.sleep(0.05)
    return f"{path}: another process is writing it{claimants.describe(claim)}"


def _release(directories: Iterable[Path]) -> None:
    """Removes the claims if all outputs are complete, and the claim on any that is empty."""
    is_complete = all((path / RECORD).exists() for path in directories)
    for path in directories:
        if is_complete or [each.name for each in path.iterdir()] == [CLAIM]:
            (path / CLAIM).unlink(missing_ok=True)
