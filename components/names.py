"""Names of files below a directory, as buckets, manifests and records give them.

Whoever writes a file under such a name checks it first: a name may come from a stranger, and `..`
or an absolute path would leave the directory. Standard library only.
"""

import os
from collections.abc import Iterable

LONGEST = 255  # bytes of a part of a name, on every usual file system
DEEPEST = 4096  # bytes of a whole name
SHOWN = 120


def problem(name: object) -> str | None:
    """The reason why a name is not a file's below a directory, or None if it is."""
    if not isinstance(name, str) or not name:
        return "is empty" if name == "" else "is no text"
    parts = name.split("/")
    size = len(os.fsencode(name)) if name.isprintable() else 0
    if not size:
        return "holds signs that cannot be printed"
    if name.startswith("/") or ".." in parts:
        return "leaves its directory"
    if "" in parts or "." in parts:
        return "is not the shortest name of its file"
    if size > DEEPEST or any(len(os.fsencode(part)) > LONGEST for part in parts):
        return "is too long"
    return None


def check(name: object, source: object, kind: type[ValueError] = ValueError) -> str:
    """The name of a file below a directory. Raises `kind` with the source, unless it is safe."""
    if reason := problem(name):
        shown = repr(name)
        shown = shown if len(shown) <= SHOWN else f"{shown[:SHOWN]}..."
        raise kind(f"{source}: the name {shown} {reason}, allowed: a file below this directory")
    assert isinstance(name, str)
    return name


def check_all(names: Iterable[object], source: object, kind: type[ValueError] = ValueError) -> None:
    """Checks names that are to be written together: none may be a folder of another one."""
    files = {check(name, source, kind) for name in names}
    for name in sorted(files):
        parts = name.split("/")
        for count in range(1, len(parts)):
            if (folder := "/".join(parts[:count])) in files:
                raise kind(f"{source}: {folder!r} is both a file and a folder of {name!r}")


def is_marker(name: str) -> bool:
    """Whether an object only marks a folder, as the consoles of object storage make them."""
    return not name or name.endswith("/")
