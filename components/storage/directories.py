"""Directories in storage, committed by a manifest that is written last.

A directory is complete once it has a manifest: a copy that was cut short is never read. A local
directory is also written as a draft and renamed.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from components import atomic, names
from components.artifact import checksum
from components.storage import (
    MANIFEST,
    AlreadyThere,
    Location,
    StorageError,
    delete,
    exists,
    get_file,
    is_remote,
    join,
    list_files,
    put_file,
    read_json,
    write_json,
)


def list_directories(location: Location) -> list[str]:
    """The names of the complete directories right below a location, sorted."""
    depth = [PurePosixPath(name) for name in list_files(location)]
    return sorted(path.parts[0] for path in depth if path.parts[1:] == (MANIFEST,))


def put_directory(local: Path, location: Location, *, replace: bool = False) -> None:
    """Copies a directory and commits it with its manifest.

    Does nothing if the same content is there already. Other content raises AlreadyThere, or is
    deleted first with `replace`.
    """
    files = {name: local / name for name in list_files(local) if name != MANIFEST}
    manifest = {
        "files": {
            name: {"bytes": file.stat().st_size, "sha256": checksum(file)}
            for name, file in files.items()
        }
    }
    if exists(join(location, MANIFEST)):
        if read_json(join(location, MANIFEST)) == manifest:
            return
        if not replace:
            raise AlreadyThere(f"{location}: holds another complete directory")
        delete(location)
    if is_remote(location):
        for name, file in files.items():
            put_file(file, join(location, name))
        return _commit(manifest, location)
    with _drafted(Path(location)) as draft:
        for name, file in files.items():
            put_file(file, draft / name)
        write_json(draft / MANIFEST, manifest)


def get_directory(location: Location, local: Path) -> None:
    """Copies a complete directory to a new or empty local one, and verifies every checksum.

    Raises FileNotFoundError without a manifest, StorageError naming a file that differs.
    """
    try:
        manifest = read_json(join(location, MANIFEST))
    except FileNotFoundError:
        raise FileNotFoundError(f"{location}: no {MANIFEST}, so it is not complete") from None
    names.check_all(manifest["files"], join(location, MANIFEST), StorageError)
    with _drafted(local) as draft:
        for name, facts in manifest["files"].items():
            get_file(join(location, name), draft / name)
            if checksum(draft / name) != facts["sha256"]:
                raise StorageError(f"{join(location, name)}: its sha256 is not the manifest's")


def _commit(manifest: dict, location: Location) -> None:
    """Writes the manifest. If a retry finds our own manifest, the first try succeeded."""
    try:
        write_json(join(location, MANIFEST), manifest, new=True)
    except AlreadyThere:
        if read_json(join(location, MANIFEST)) != manifest:
            raise


@contextlib.contextmanager
def _drafted(target: Path) -> Iterator[Path]:
    """A draft directory, which moves to `target` in the end. AlreadyThere unless that is free."""
    try:
        with atomic.replacing(target) as draft:
            draft.mkdir(parents=True)
            yield draft
    except FileExistsError as error:
        raise AlreadyThere(f"{target}: not empty") from error
