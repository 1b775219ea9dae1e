"""Weights that an artifact refers to and does not hold: where they are, and how they are read.

The record of such an artifact lists every file with its size and checksum, as any record does, and
under `references` the location of those that stay where they are: a path that is mounted, or
s3://BUCKET/KEY. Nothing of them goes over a node's disk, unless `cache` names a directory there.
"""

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from components import artifact, storage, temporary
from components.artifact import ArtifactError

FILES = 4  # read at a time, each by parallel ranges
T = TypeVar("T")


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Path]:
    """A directory with all files of an artifact, within the block; `path` if it holds them itself.

    Files at a path are linked, and so are those of the cache. All others are read by parallel
    requests into memory, which is free again when the block has ended and no tensor is mapped to
    it. Raises ArtifactError naming a file that is gone or has changed since it was referred to.
    """
    record = artifact.read(path) if (path / artifact.RECORD).exists() else {}
    places = record.get("references")
    if not places:
        yield path
        return
    with temporary.directory() as folder, contextlib.ExitStack() as stack:
        for file in path.iterdir():
            (folder / file.name).symlink_to(file.resolve())

        def link(name: str, location: str) -> None:
            facts = record["files"][name]
            _link(folder / name, location, facts, places.get("cache"), stack)

        _each(link, places["files"])
        yield folder


@contextlib.contextmanager
def measured(
    path: Path, locations: Mapping[str, str]
) -> Iterator[tuple[Path, dict[str, dict[str, Any]]]]:
    """A directory with the files of `path` and those at the locations, and the latter's facts.

    These are the size in bytes and the sha256 of each: the store's own where it has one, else
    computed. As in `opened`, what is not mounted is read into memory.
    """
    with temporary.directory() as folder, contextlib.ExitStack() as stack:
        for file in path.iterdir():
            (folder / file.name).symlink_to(file.resolve())

        def measure(name: str, location: str) -> dict[str, Any]:
            file, sha256 = folder / name, None
            if storage.is_remote(location):
                _link_memory(file, stack)
                sha256 = storage.read_into(location, file)
            else:
                file.symlink_to(location)
            size = file.stat().st_size
            return {"sha256": sha256 or artifact.checksum(file), "bytes": size}

        facts = dict(zip(locations, _each(measure, locations), strict=True))
        yield folder, facts


def _each(work: Callable[[str, str], T], locations: Mapping[str, str]) -> list[T]:
    """The work on several files at a time: one core computes the checksum of one file."""
    with ThreadPoolExecutor(FILES) as pool:
        return list(pool.map(work, locations, locations.values()))


def _link_memory(link: Path, stack: contextlib.ExitStack) -> None:
    """Links to an empty file in memory, which is gone when the stack is closed."""
    descriptor = os.memfd_create(link.name)
    stack.callback(os.close, descriptor)
    link.symlink_to(f"/proc/{os.getpid()}/fd/{descriptor}")


def _link(
    link: Path,
    location: str,
    facts: Mapping[str, Any],
    cache: str | None,
    stack: contextlib.ExitStack,
) -> None:
    """Links to a path where the file is, checked."""
    if not storage.is_remote(location):
        _compare(location, Path(location), facts)
        link.symlink_to(location)
    elif cache is not None and Path(cache).is_dir():
        link.symlink_to(_cached(location, Path(cache), facts))
    else:
        _link_memory(link, stack)
        _fetch(location, link, facts)


def _cached(location: str, cache: Path, facts: Mapping[str, Any]) -> Path:
    """The copy on this node, by its checksum; a damaged copy is fetched anew."""
    file = cache / facts["sha256"]
    with contextlib.suppress(ArtifactError):
        _compare(str(file), file, facts)
        return file
    with tempfile.NamedTemporaryFile(dir=cache, prefix=".draft-", delete=False) as draft:
        try:
            _fetch(location, Path(draft.name), facts).replace(file)
        finally:
            Path(draft.name).unlink(missing_ok=True)
    return file


def _fetch(location: str, target: Path, facts: Mapping[str, Any]) -> Path:
    """Reads a file by parallel ranges straight into its place."""
    folder, _, name = location.rpartition("/")
    _refuse(location, storage.list_files(folder).get(name), facts)
    if storage.read_into(location, target) != facts["sha256"]:
        _compare(location, target, facts)
    return target


def _compare(location: str, file: Path, facts: Mapping[str, Any]) -> None:
    """Raises ArtifactError unless the file is the one that was referred to."""
    _refuse(location, file.stat().st_size if file.is_file() else None, facts)
    if artifact.checksum(file) != facts["sha256"]:
        raise ArtifactError(f"{location}: changed since the model was made that refers to it")


def _refuse(location: str, size: int | None, facts: Mapping[str, Any]) -> None:
    if size is None:
        raise ArtifactError(f"{location}: gone; a model refers to it")
    if size != facts["bytes"]:
        raise ArtifactError(
            f"{location}: changed since the model was made that refers to it: {size} bytes, "
            f"then {facts['bytes']}"
        )
