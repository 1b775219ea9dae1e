"""Directories in storage, committed by a manifest that is written last.

A directory is complete once it has a manifest: a copy that was cut short is never read. A local
directory is also written as a draft and renamed.
"""

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

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
    uploads,
    write_json,
)

FILES = 4  # files on their way at a time


def list_directories(location: Location) -> list[str]:
    """The names of the complete directories right below a location, sorted."""
    depth = [PurePosixPath(name) for name in list_files(location)]
    return sorted(path.parts[0] for path in depth if path.parts[1:] == (MANIFEST,))


def put_directory(
    local: Path, location: Location, *, replace: bool = False, writer: str = ""
) -> None:
    """Copies a directory and commits it with its manifest.

    In object storage the files go to a folder named `writer`, so that no two writers of a location
    mix: of two manifests the first counts, or the last where the server knows no conditions.

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
        if _manifest(location)["files"] == manifest["files"]:
            return
        if not replace:
            raise AlreadyThere(f"{location}: holds another complete directory")
        delete(location)
    if is_remote(location):
        data = join(location, writer) if writer else location
        with ThreadPoolExecutor(FILES) as pool:
            list(pool.map(lambda name: put_file(files[name], join(data, name)), files))
        return _commit({**manifest, "data": writer}, location)
    try:
        with _drafted(Path(location)) as draft:
            for name, file in files.items():
                put_file(file, draft / name)
            write_json(draft / MANIFEST, manifest)
    except FileNotFoundError:
        # Whoever has completed the directory may remove the drafts of the others.
        if not exists(join(location, MANIFEST)):
            raise
        raise AlreadyThere(f"{location}: another process was first") from None


def get_directory(location: Location, local: Path) -> None:
    """Copies a complete directory to a new or empty local one, and verifies every checksum.

    Raises FileNotFoundError without a manifest, StorageError naming a file that differs.
    """
    manifest = _manifest(location)
    data = join(location, manifest["data"]) if manifest.get("data") else location
    with _drafted(local) as draft, ThreadPoolExecutor(FILES) as pool:

        def get(name: str) -> None:
            get_file(join(data, name), draft / name)
            if checksum(draft / name) != manifest["files"][name]["sha256"]:
                raise StorageError(f"{join(data, name)}: its sha256 is not the manifest's")

        list(pool.map(get, manifest["files"]))


def sweep(location: Location) -> None:
    """Removes what other writers of a complete directory left beside it."""
    if not is_remote(location):
        return
    folders = {name.partition("/")[0] for name in list_files(location) if "/" in name}
    try:
        data = _manifest(location).get("data")
    except FileNotFoundError:
        return  # another process has removed it meanwhile
    for name in folders - {data} if data else ():
        delete(join(location, name))


def abort(location: Location, is_left: Callable[[str], bool]) -> None:
    """Removes the parts of files that killed processes were sending to object storage.

    `is_left` judges the names of those files, relative to the location.
    """
    if is_remote(location):
        uploads.abort(location, is_left)


def _manifest(location: Location) -> dict[str, Any]:
    """The manifest of a complete directory, with names that stay below it."""
    file = join(location, MANIFEST)
    try:
        manifest = read_json(file)
    except FileNotFoundError:
        raise FileNotFoundError(f"{location}: no {MANIFEST}, so it is not complete") from None
    files = manifest.get("files") if isinstance(manifest, dict) else None
    if not isinstance(files, dict) or not isinstance(manifest.get("data", ""), str):
        raise StorageError(f"{file}: not a manifest: it lists no files")
    for name, facts in files.items():
        if not isinstance(facts, dict) or not isinstance(facts.get("sha256"), str):
            raise StorageError(f"{file}: not a manifest: no sha256 of {name!r}")
    names.check_all(files, file, StorageError)
    return manifest


def _commit(manifest: dict[str, Any], location: Location) -> None:
    """Writes the manifest. Another one is fine that lists the same files."""
    try:
        write_json(join(location, MANIFEST), manifest, new=True)
    except AlreadyThere:
        if _manifest(location)["files"] != manifest["files"]:
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
