"""Files and directories at a location: a local path, s3://BUCKET/KEY, or hf:// for reading.

All behave alike: a file is written whole or not at all. Whatever components fetch from or keep in
another place goes through this room: `objects` and `hub` open the connections, `finding` expands
patterns, `directories` copies whole directories.
"""

import contextlib
import errno
import fnmatch
import io
import json
import os
import shutil
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any, BinaryIO

from components import atomic, names, temporary
from components.storage import (
    checksums,
    downloads,
    finding,
    hub,
    listing,
    objects,
    transfers,
    uploads,
)
from components.storage.errors import (
    AlreadyThere,
    Damaged,
    Location,
    Refused,
    StorageError,
    Unavailable,
)
from components.storage.finding import Listing, Sizes

__all__ = [
    "AlreadyThere",
    "Damaged",
    "Listing",
    "Location",
    "Refused",
    "StorageError",
    "Unavailable",
]
MANIFEST = ".manifest.json"
PICKLES = (".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth")


def is_remote(location: Location) -> bool:
    """Whether a location is in object storage. Raises StorageError on an unknown scheme."""
    scheme, separator, _ = str(location).partition("://")
    if separator and scheme != "s3":
        note = "; hf:// is for reading rows" if scheme == "hf" else ""
        raise StorageError(
            f"{location}: unknown scheme, allowed: a local path or s3://BUCKET/KEY{note}"
        )
    return bool(separator)


def join(location: Location, name: str) -> str:
    """The location of `name` below a directory. Raises StorageError for a name that leaves it."""
    return f"{str(location).rstrip('/')}/{names.check(name, location, StorageError)}"


def exists(location: Location) -> bool:
    """Whether there is a file, or a directory with its manifest, at the location."""
    if not is_remote(location):
        path = Path(location)
        return path.is_file() or (path / MANIFEST).is_file()
    return any(listing.size_of(name) is not None for name in (location, join(location, MANIFEST)))


def list_files(location: Location) -> dict[str, int]:
    """The size in bytes of every file below a directory, by relative name.

    Objects that only mark a folder are no files. Raises StorageError for names that no directory
    could hold.
    """
    if is_remote(location):
        return {name: entry.size for name, entry in list_entries(location).items()}
    root = Path(location)
    sizes = {}
    for folder, _, beside in os.walk(root):
        for path in (Path(folder, name) for name in beside):
            with contextlib.suppress(FileNotFoundError):  # another process has removed it
                if path.is_file():
                    sizes[path.relative_to(root).as_posix()] = path.stat().st_size
    return dict(sorted(sizes.items()))


def list_entries(location: Location) -> dict[str, listing.Entry]:
    """As `list_files`, of a location in object storage, with ETags."""
    below = listing.entries_below(location)
    files = {name: entry for name, entry in below.items() if not names.is_marker(name)}
    names.check_all(files, location, StorageError)
    return files


def find(location: Location) -> Listing:
    """The files at a location: itself, all below a directory, or what a pattern matches.

    `finding` has the rules. Raises FileNotFoundError if there is none.
    """
    matches = finding.find(str(location), _sizes)
    if not matches.files:
        where = " on the Hub" if hub.is_on_hub(location) else ""
        raise FileNotFoundError(
            f"{location}: no such file{where}{finding.describe(matches.left_out)}"
        )
    return matches


def open_file(location: Location) -> BinaryIO:
    """A file for reading, seekable. Remote files are read in ranges, with retries."""
    if hub.is_on_hub(location):
        return hub.open_file(str(location))
    if not is_remote(location):
        return open(location, "rb")
    return io.BufferedReader(objects.Ranges(location), objects.PART)


def get_file(location: Location, local: Path) -> None:
    """Copies a file to a local path, whole or not at all."""
    local.parent.mkdir(parents=True, exist_ok=True)
    with atomic.replacing(local) as draft:
        if is_remote(location):
            downloads.download(location, draft)
        else:
            shutil.copyfile(location, draft)


def read_into(location: Location, file: Path) -> str | None:
    """Fetches a remote file into one that exists and may be memory, by parallel ranges.

    Returns the sha256 by which it was verified, None where the server has none.
    """
    return downloads.download(location, file)


def put_file(local: Path, location: Location) -> None:
    """Copies a local file to a location, whole or not at all."""
    if not is_remote(location):
        return get_file(local, Path(location))
    uploads.upload(local, location)


def read_json(location: Location) -> Any:
    """The content of a JSON file. Raises StorageError if it is not JSON."""
    content = objects.read(location) if is_remote(location) else Path(location).read_bytes()
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise StorageError(f"{location}: not JSON: {error}") from None


def write_json(location: Location, value: Any, *, new: bool = False) -> None:
    """Writes a JSON file, whole or not at all. With `new`, raises AlreadyThere if there is one."""
    if is_remote(location):
        return objects.put(location, json.dumps(value, indent=1).encode(), new=new)
    path = Path(location)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        atomic.write_json(path, value, new=new)
    except FileExistsError:
        raise AlreadyThere(f"{location}: is there already") from None


def delete(location: Location) -> None:
    """Removes a file, or a directory with all below it, if it exists.

    The manifest goes first: a deletion that is cut short leaves nothing that looks complete.
    Raises StorageError for a location that ends without a name, which may be a whole bucket.
    """
    _check_named(location)
    if not is_remote(location):
        path = Path(location)
        if not path.is_dir():
            return path.unlink(missing_ok=True)
        (path / MANIFEST).unlink(missing_ok=True)
        return shutil.rmtree(path, onerror=_unless_gone)
    listing.remove(location, first=MANIFEST)


def _unless_gone(_: Any, __: str, reason: tuple[Any, BaseException, Any]) -> None:
    """Two processes may remove the same directory, and a third may still write into it."""
    gone = (errno.ENOENT, errno.ENOTEMPTY)
    if not isinstance(reason[1], OSError) or reason[1].errno not in gone:
        raise reason[1]


def _check_named(location: Location) -> None:
    """Whether the last name of a location is a name."""
    text = str(location).removeprefix("s3://")
    folder, _, name = text.rpartition("/")
    if names.problem(name) or (is_remote(location) and not folder):
        raise StorageError(f"{location}: names nothing to delete, allowed: a file or a directory")


def fetch(name: str, revision: str | None, *, kind: str, patterns: list[str]) -> Path:
    """The local directory `name`, or a local copy of the matching files from S3 or the Hub.

    `kind` is "model" or "dataset". Raises StorageError naming a source that cannot be fetched.
    """
    if Path(name).is_dir():
        _refuse_pickles(f"{kind} {name!r}", [path.name for path in Path(name).iterdir()], patterns)
        return Path(name)
    if name.startswith("s3://"):
        return _fetch(name, kind, patterns)
    folder = hub.snapshot(name, revision, kind=kind, patterns=patterns)
    if not _matching(os.listdir(folder), patterns):
        _refuse_pickles(f"{kind} {name!r}", hub.names(name, revision, kind=kind), patterns)
    return folder


def _matching(files: Iterable[str], patterns: list[str]) -> list[str]:
    return [f for f in files if any(fnmatch.fnmatch(f, pattern) for pattern in patterns)]


def _refuse_pickles(source: str, files: Collection[str], patterns: list[str]) -> None:
    """Raises StorageError naming a pickle where nothing that is wanted is beside it."""
    pickles = sorted(file for file in files if file.endswith(PICKLES))
    if pickles and not _matching(files, patterns):
        raise StorageError(
            f"{source}: {pickles[0]} is a pickle, which runs code when it is read, "
            f"allowed: {', '.join(patterns)}"
        )


def _fetch(location: str, kind: str, patterns: list[str]) -> Path:
    """A copy that goes on with that of a killed process, if this process is the only one."""
    entries = list_entries(location)
    files = {name: entries[name] for name in _matching(entries, patterns)}
    if not files:
        _refuse_pickles(f"{kind} {location!r}", entries, patterns)
        raise StorageError(f"{kind} {location!r}: no {', '.join(patterns)} is there")
    wanted = "\n".join([location, *patterns])
    folder = temporary.own_folder(f"fetch-{checksums.sha256_of(wanted.encode())[:16]}")
    folder.mkdir(exist_ok=True)
    transfers.receive(files, location, folder, resumes=True)
    return folder


def hub_address(name: str, source: Path) -> str | None:
    """OWNER/NAME@COMMIT if `fetch` took `name` from the Hub, None for a local path or S3.

    The Hub's client keeps each commit in a folder named after it.
    """
    is_off_hub = Path(name).is_dir() or name.startswith("s3://")
    return None if is_off_hub else f"{name}@{source.name}"


def _sizes(location: str) -> Sizes:
    """The files below a directory with their bytes; a file is its own name ""."""
    if hub.is_on_hub(location):
        return {**hub.sizes(location)}
    if not is_remote(location):
        return finding.local_sizes(Path(location))
    if (own := listing.size_of(location)) is not None:
        return {"": own}
    return {**list_files(location)}
