"""Many files sent to object storage or fetched from it, in parallel; what is there is passed over.

A file counts as there if its content is that of the object: by the ETag in the listing, which most
servers make of MD5 sums. Where there is none (JuiceFS, a key of the customer) it is sent again.
"""

import functools
import hashlib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from components.storage import downloads, uploads
from components.storage.checksums import tag_of
from components.storage.errors import Location
from components.storage.listing import Entry
from components.storage.progress import Progress

FILES = 12  # on their way at a time
MD5 = functools.partial(hashlib.md5, usedforsecurity=False)
T = TypeVar("T")


def send(
    files: Mapping[str, Path],
    location: Location,
    known: Mapping[str, Entry],
    sums: Mapping[str, str],
) -> None:
    """Sends files, by relative name, to a location whose listing is `known`.

    `sums` are their sha256. A file that is there already is passed over.
    """
    progress = Progress(str(location), sum(file.stat().st_size for file in files.values()))

    def one(name: str) -> None:
        file = files[name]
        if is_same(file, known.get(name)):
            return progress.skip(file.stat().st_size)
        uploads.upload(file, f"{location}/{name}", sha256=sums[name], progress=progress)

    _all(one, files)


def receive(
    files: Mapping[str, Entry], location: Location, folder: Path, *, resumes: bool = False
) -> dict[str, str | None]:
    """Fetches files below a location to a folder; returns the sha256 that each was verified by.

    With `resumes` the folder may hold what an earlier try fetched.
    """
    progress = Progress(str(location), sum(entry.size for entry in files.values()))
    for parent in {(folder / name).parent for name in files}:
        parent.mkdir(parents=True, exist_ok=True)

    def one(name: str) -> str | None:
        target = folder / name
        if resumes and is_same(target, files[name]):
            progress.skip(files[name].size)
            return None
        draft = target.with_name(f".{target.name}.part")
        sha256 = downloads.download(f"{location}/{name}", draft, progress=progress, resumes=resumes)
        draft.replace(target)
        return sha256

    return dict(zip(files, _all(one, files), strict=True))


def is_same(file: Path, entry: Entry | None) -> bool:
    """Whether a local file has the content of an object, as far as its listing tells."""
    if entry is None or not entry.tag or not file.is_file() or file.stat().st_size != entry.size:
        return False
    if "-" in entry.tag:
        return entry.tag == tag_of(file, uploads.part_size(entry.size))
    with file.open("rb") as stream:
        return entry.tag == hashlib.file_digest(stream, MD5).hexdigest()


def _all(one: Callable[[str], T], names: Mapping[str, object]) -> list[T]:
    """Does `one` for every name; after a failure the names that wait are not begun."""
    with ThreadPoolExecutor(min(FILES, max(len(names), 1))) as pool:
        try:
            return list(pool.map(one, names))
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
