"""Files and directories that are there whole or not at all: written as drafts, then renamed.

What is complete once its last file is there writes that file with `write_json`: `.artifact.json`
(`artifact`), `.manifest.json` (`storage.directories`), `manifest.json` (`data.token_shards`).
Local paths only. Standard library only.
"""

import contextlib
import errno
import json
import os
import shutil
import stat
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

DRAFT = f".draft-{'[0-9a-f]' * 8}"
"""How the name of a draft ends, as a pattern."""

UNSUPPORTED = (errno.EINVAL, errno.ENOTSUP, errno.EROFS)


@contextlib.contextmanager
def replacing(path: Path, *, new: bool = False, durable: bool = True) -> Iterator[Path]:
    """A free name beside `path` for the block to write to, which then takes the place of `path`.

    A draft that was not finished is removed. A directory takes a free or empty place only: raises
    FileExistsError where another is there; with `new` a file does too. What is not `durable` is
    not flushed: a copy of what is kept elsewhere.
    """
    draft = _beside(path)
    try:
        yield draft
        _settle(draft, path, new) if durable else _move(draft, path, new)
    finally:
        _remove(draft)


def write_json(path: Path, value: Any, *, new: bool = False) -> None:
    """Writes a JSON file, on the disk before it takes its place. Raises as `replacing` does."""
    with replacing(path, new=new) as draft:
        draft.write_bytes(json.dumps(value, indent=1).encode())


def flush(path: Path) -> None:
    """Has a file, or all files and folders of a directory, on the disk when it returns."""
    for folder, _, files in os.walk(path):
        for name in files:
            _sync(Path(folder, name))
        _sync(Path(folder))
    if not path.is_dir():
        _sync(path)


def remove_drafts(path: Path) -> None:
    """Removes what killed processes left beside `path`; for a place that has one writer."""
    for draft in path.parent.glob(_hidden(path.name) + DRAFT):
        _remove(draft)


def _beside(path: Path) -> Path:
    """A rename replaces at once only within a file system, hence the same directory."""
    return path.with_name(f"{_hidden(path.name)}.draft-{uuid.uuid4().hex[:8]}")


def _hidden(name: str) -> str:
    return name if name.startswith(".") else f".{name}"


def _settle(draft: Path, path: Path, new: bool) -> None:
    """Moves a draft to its place: its content is on the disk before, the name afterwards."""
    flush(draft)
    _move(draft, path, new)
    _sync(path.parent)


def _sync(path: Path) -> None:
    """Some file systems cannot flush a folder, or a file that may not be read; they say so."""
    if not stat.S_ISREG(mode := path.lstat().st_mode) and not stat.S_ISDIR(mode):
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
    finally:
        os.close(descriptor)


def _move(draft: Path, path: Path, new: bool) -> None:
    if new:
        os.link(draft, path)  # a rename would replace a file; a link is refused
        return
    try:
        draft.replace(path)
    except OSError as error:
        if draft.is_dir() and path.exists():
            raise FileExistsError(error.errno, "not empty", str(path)) from error
        raise


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
