"""Objects fetched to files: parts in parallel, verified whole, and gone on with after a kill.

A small object is one request; a large one its size and its parts, each of which goes to its place
in the file as it comes.
"""

import contextlib
import json
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

from components.storage.checksums import Digest, Facts, verify_parts
from components.storage.connection import explained
from components.storage.errors import Changed, Location
from components.storage.objects import TRIES, get, write_range
from components.storage.progress import Progress

PART = 32 << 20  # bytes of one request: smaller ones cost both sides time (docs/log.md)
THREADS = 8
REQUESTS = threading.BoundedSemaphore(12)  # at a time, for all files together
CHUNK = 1 << 20  # bytes that are hashed at a time
DONE = ".parts"  # ends the name of the list of a file's parts that are there


def download(
    location: Location, file: Path, *, progress: Progress | None = None, resumes: bool = False
) -> str | None:
    """Fetches an object and verifies the whole; returns the sha256 by which it was verified.

    With `resumes`, the parts that an earlier try left in `file` are not fetched again; then `file`
    may have no other writer.
    """
    with explained(location):
        for attempt in range(1, TRIES + 1):
            facts, content = get(location)
            counter = progress or Progress(str(location), facts.size)
            try:
                if content is None:
                    _fetch(location, file, facts, counter, resumes)
                else:
                    _write(file, content, facts)
                    counter.add(facts.size)
                return facts.sha256
            except Changed:
                _list_of(file).unlink(missing_ok=True)
                if attempt == TRIES:
                    raise
    raise AssertionError("the loop returns or raises")


def _write(file: Path, content: bytearray, facts: Facts) -> None:
    digest = Digest(facts)
    digest.add(content)
    digest.check()
    file.write_bytes(content)
    verify_parts(file, facts)


def _fetch(location: Location, file: Path, facts: Facts, progress: Progress, resumes: bool) -> None:
    """Fetches the parts, and computes the checksum of those that are there meanwhile."""
    digest = Digest(facts)
    done = _done(file, facts) if resumes else set()
    with _opened(file, facts, done) as (stream, note), ThreadPoolExecutor(THREADS) as pool:

        def part(start: int) -> None:
            end = min(start + PART, facts.size)
            if start in done:
                return progress.skip(end - start)
            with REQUESTS:
                write_range(location, start, end, facts, file=stream.fileno(), arrived=progress.add)
            if resumes:
                os.write(note, f"{start}\n".encode())

        starts = range(0, facts.size, PART)
        for start, _ in zip(starts, pool.map(part, starts), strict=True):
            for place in range(start, start + PART, CHUNK):
                digest.add(os.pread(stream.fileno(), CHUNK, place))
    digest.check()
    verify_parts(file, facts)
    _list_of(file).unlink(missing_ok=True)


@contextlib.contextmanager
def _opened(file: Path, facts: Facts, done: set[int]) -> Iterator[tuple[BinaryIO, int]]:
    """The file at its full length, and a descriptor of the list of its parts."""
    with file.open("r+b" if done else "w+b") as stream, _list_of(file).open("ab") as note:
        stream.truncate(facts.size)
        if not done:
            note.truncate(0)
            note.write(f"{_identity(facts)}\n".encode())
            note.flush()
        yield stream, note.fileno()


def _done(file: Path, facts: Facts) -> set[int]:
    """The starts of the parts of the same object that are in the file."""
    try:
        first, *lines = _list_of(file).read_text().splitlines()
    except (OSError, ValueError):
        return set()
    if facts.tag is None or first != _identity(facts) or not file.is_file():
        return set()
    return {int(line) for line in lines if line.isdecimal()}


def _identity(facts: Facts) -> str:
    return json.dumps([facts.size, facts.tag])


def _list_of(file: Path) -> Path:
    return file.with_name(f"{file.name}{DONE}")
