"""Which files a location names: one rule for local paths, object storage and the Hub.

    a file        that file, whatever its name
    a directory   every file below it, at any depth
    a pattern     * matches any text within a name, ? one character, [ab], [a-c] and [!a] one of a
                  set; ** in place of a name matches any folders, or none

A file or directory of exactly the given name comes before a pattern; [[] matches a bracket. A name
that begins with a dot is hidden: only a pattern that spells the dot matches it. Linked files and
folders are followed, unless a link leads back to a folder above it. Files that a directory or a
pattern matches but that are left out are named with the reason.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

WILD = "*?["
Sizes = dict[str, int | None]  # relative name -> bytes; None where nothing can be read


@dataclass(frozen=True)
class Listing:
    """The files at a location and the files left out, by relative name, sorted."""

    by: Literal["name", "pattern", "folder"]
    """How the location named them: in full, by a part of their name, or only by their folder."""
    files: dict[str, str]
    """The location of each file."""
    left_out: dict[str, str] = field(default_factory=dict)
    """The reason for each file, in a word or two."""


def find(location: str, sizes: Callable[[str], Sizes]) -> Listing:
    """The files that `location` names. `sizes` lists a directory; a file it lists as ""."""
    text = location.rstrip("/") or "/"
    listed = sizes(text)
    if "" in listed:
        return Listing("name", {text.rpartition("/")[2]: text})
    root, pattern = (text, "**") if listed else _split(text, sizes)
    if pattern and not listed:
        listed = sizes(root or ".")
    is_wide = not pattern.rpartition("/")[2].strip("*")
    listing = Listing("folder" if is_wide else "pattern", {})
    for name, size in sorted(listed.items()):
        if not _matches(name, pattern, hidden=True):
            continue
        if not _matches(name, pattern, hidden=False):
            listing.left_out[_until_hidden(name)] = "hidden"
        elif not size:
            listing.left_out[name] = "empty" if size == 0 else "not a file that can be read"
        else:
            listing.files[name] = f"{root.rstrip('/')}/{name}" if root else name
    return listing


def describe(left_out: dict[str, str], shown: int = 5) -> str:
    """The files left out and their reasons, for the end of a line."""
    if not left_out:
        return ""
    names = [f"{name} ({reason})" for name, reason in sorted(left_out.items())[:shown]]
    more = [f"{len(left_out) - shown} more"] if len(left_out) > shown else []
    return f"; {len(left_out)} left out: {', '.join([*names, *more])}"


def local_sizes(root: Path) -> Sizes:
    """Every file below a local directory; links are followed."""
    if root.is_file():
        return {"": root.stat().st_size}
    return dict(_below(root)) if root.is_dir() else {}


def _below(root: Path) -> Iterator[tuple[str, int | None]]:
    waiting = [(str(root), "", frozenset({os.path.realpath(root)}))]
    while waiting:
        folder, prefix, above = waiting.pop()
        try:
            entries = list(os.scandir(folder))
        except PermissionError:
            yield prefix.rstrip("/"), None
            continue
        for entry in entries:
            name, path = prefix + entry.name, entry.path
            if os.path.isdir(path) and (real := os.path.realpath(path)) not in above:
                waiting.append((path, f"{name}/", above | {real}))
            else:
                yield name, os.path.getsize(path) if os.path.isfile(path) else None


def _split(text: str, sizes: Callable[[str], Sizes]) -> tuple[str, str]:
    """The directory before the first name that is a pattern, and the pattern that follows it."""
    names = text.split("/")
    count = 0
    while count < len(names) - 1 and (
        not _is_wild(names[count])
        or ("[" in names[count] and sizes("/".join(names[: count + 1])))  # a folder of that name
    ):
        count += 1
    root, pattern = "/".join(names[:count]), "/".join(names[count:])
    if not _is_wild(pattern):
        return root, ""
    return root or ("/" if text.startswith("/") else ""), pattern


def _is_wild(name: str) -> bool:
    return any(sign in name for sign in WILD)


def _matches(name: str, pattern: str, *, hidden: bool) -> bool:
    """Whether a relative name matches, folder by folder. With `hidden`, wildcards match dots."""
    signs, places = pattern.split("/"), {0}
    for part in name.split("/"):
        places = {after for place in places for after in _after(place, part, signs, hidden)}
    return len(signs) in places


def _after(place: int, part: str, signs: list[str], hidden: bool) -> Iterator[int]:
    """The places in a pattern that a name at `place` may reach by its next `part`."""
    if place == len(signs):
        return
    sign, is_last = signs[place], place == len(signs) - 1
    is_seen = hidden or not part.startswith(".") or sign.startswith(".")
    if sign == "**":
        if is_seen:
            yield place
        if is_seen and is_last:
            yield place + 1
        if not is_last:
            yield from _after(place + 1, part, signs, hidden)
    elif is_seen and fnmatchcase(part, sign):
        yield place + 1


def _until_hidden(name: str) -> str:
    """A hidden file, or the first hidden folder on the way to it."""
    parts = name.split("/")
    first = next(place for place, part in enumerate(parts) if part.startswith("."))
    return "/".join(parts[: first + 1]) + ("/" if first < len(parts) - 1 else "")
