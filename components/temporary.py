"""Temporary folders of stages, all below one directory, from which those of killed ones are swept.

A folder belongs to its processes as long as one of them holds a lock on the file beside it, which
the system releases however they end. Standard library only.
"""

import atexit
import contextlib
import fcntl
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

from components import PROJECT, atomic

KEPT = "kept-"
"""Begins the names of folders that the same command takes up again after a kill."""
HELD: list[int] = []
"""Locks that this process holds to its end."""


def root() -> Path:
    """The directory of all temporary folders of this user."""
    path = Path(tempfile.gettempdir()) / f"{PROJECT}-{os.getuid()}"
    path.mkdir(mode=0o700, exist_ok=True)
    if path.is_symlink() or path.stat().st_uid != os.getuid():
        raise PermissionError(f"{path}: belongs to somebody else; TMPDIR names another directory")
    return path


def folder(name: str | None = None) -> Path:
    """A path below `root` for a folder that is removed when the process ends.

    Processes that share a folder give it the same name. The first call of a process sweeps what
    killed ones left.
    """
    if not HELD:
        sweep()
    lock = None
    while lock is None:
        path = root() / (name or uuid.uuid4().hex)
        # Another process may have removed the empty directory meanwhile.
        with contextlib.suppress(FileNotFoundError):
            lock = os.open(_lock_of(path), os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(lock, fcntl.LOCK_SH)
    HELD.append(lock)
    atexit.register(_remove, path)
    return path


def own_folder(name: str) -> Path:
    """As `folder`, with what a killed process left under this name; a new one if it still runs.

    Unlike the first `folder` of a process, it leaves the folders of other names to their next use.
    """
    path = root() / f"{KEPT}{name}"
    lock = os.open(_lock_of(path), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return folder()
    HELD.append(lock)
    sweep(spared=KEPT)
    atexit.register(_remove, path)
    return path


@contextlib.contextmanager
def directory() -> Iterator[Path]:
    """A new empty folder, which is removed at the end of the block."""
    path = folder()
    path.mkdir()
    try:
        yield path
    finally:
        _remove(path)


def sweep(spared: str | None = None) -> None:
    """Removes the folders whose processes are gone, but those whose names begin with `spared`."""
    for lock in list(root().glob("*.lock")):
        if spared is not None and lock.name.startswith(spared):
            continue
        with contextlib.suppress(OSError), lock.open("r+") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove(lock.with_suffix(""))


def _remove(path: Path) -> None:
    """Removes a folder or its draft, and the directory of all of them once it is empty."""
    shutil.rmtree(path, ignore_errors=True)
    atomic.remove_drafts(path)
    _lock_of(path).unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        path.parent.rmdir()


def _lock_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.lock")
