"""Directories in storage, committed by a manifest that is written last.

A directory is complete once it has a manifest: a copy that was cut short is never read. A local
directory is also written as a draft and renamed.
"""

import contextlib
from collections.abc import Callable, Iterator
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
    list_entries,
    list_files,
    listing,
    put_file,
    read_json,
    transfers,
    uploads,
    write_json,
)


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
    if is_remote(location):
        return _put_remote(files, {**manifest, "data": writer}, location, replace)
    if exists(join(location, MANIFEST)):
        if _manifest(location)["files"] == manifest["files"]:
            return
        _refuse(location, replace)
        delete(location)
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


def _put_remote(
    files: dict[str, Path], manifest: dict[str, Any], location: Location, replace: bool
) -> None:
    """Sends the files that are not there with the same content, and commits."""
    data, known = manifest["data"], list_entries(location)
    prefix, unchanged = f"{data}/" if data else "", set[str]()
    if MANIFEST in known:
        old = _manifest(location)
        if old["files"] == manifest["files"]:
            return
        _refuse(location, replace)
        delete(join(location, MANIFEST))
        stale = known.keys() - {MANIFEST} - {prefix + name for name in files}
        listing.remove_all(location, sorted(stale))
        if old.get("data", "") == data:
            same = {name for name in files if old["files"].get(name) == manifest["files"][name]}
            unchanged = {name for name in same if prefix + name in known}
    target = join(location, data) if data else str(location).rstrip("/")
    own = {name: known[prefix + name] for name in files if prefix + name in known}
    sums = {name: facts["sha256"] for name, facts in manifest["files"].items()}
    changed = {name: file for name, file in files.items() if name not in unchanged}
    transfers.send(changed, target, own, sums)
    _commit(manifest, location)


def _refuse(location: Location, replace: bool) -> None:
    if not replace:
        raise AlreadyThere(f"{location}: holds another complete directory")


def get_directory(location: Location, local: Path) -> None:
    """Copies a complete directory to a new or empty local one, and verifies every checksum.

    Raises FileNotFoundError without a manifest, StorageError naming a file that differs. The copy
    is not flushed to the disk.
    """
    manifest = _manifest(location)
    data = join(location, manifest["data"]) if manifest.get("data") else str(location).rstrip("/")
    expected = {name: facts["sha256"] for name, facts in manifest["files"].items()}
    with _drafted(local, durable=False) as draft:
        sums = _receive(manifest["files"], data, draft) if is_remote(location) else {}
        for name, sha256 in expected.items():
            if not is_remote(location):
                get_file(join(data, name), draft / name)
            if (sums.get(name) or checksum(draft / name)) != sha256:
                raise StorageError(f"{join(data, name)}: its sha256 is not the manifest's")


def _receive(files: dict[str, Any], data: str, draft: Path) -> dict[str, str | None]:
    """Copies the files of a manifest; it says how many bytes there will be."""
    sizes = {name: facts.get("bytes") for name, facts in files.items()}
    entries = {
        name: listing.Entry(size if isinstance(size, int) else 0, None)
        for name, size in sizes.items()
    }
    return transfers.receive(entries, data, draft)


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
    if manifest.get("data"):
        names.check(manifest["data"], file, StorageError)
    return manifest


def _commit(manifest: dict[str, Any], location: Location) -> None:
    """Writes the manifest. Another one is fine that lists the same files."""
    try:
        write_json(join(location, MANIFEST), manifest, new=True)
    except AlreadyThere:
        if _manifest(location)["files"] != manifest["files"]:
            raise


@contextlib.contextmanager
def _drafted(target: Path, *, durable: bool = True) -> Iterator[Path]:
    """A draft directory, which moves to `target` in the end. AlreadyThere unless that is free."""
    try:
        with atomic.replacing(target, durable=durable) as draft:
            draft.mkdir(parents=True)
            yield draft
    except FileExistsError as error:
        raise AlreadyThere(f"{target}: not empty") from error
