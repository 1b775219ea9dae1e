"""The names of objects below a location: listed by pages of 1,000, and deleted by as many."""

import functools
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import botocore.exceptions as aws

from components.names import is_marker
from components.storage.connection import client, code_of, explained, split
from components.storage.errors import Location
from components.storage.retries import persist

THREADS = 8
AT_ONCE = 1000  # names in a request that deletes
UNSUPPORTED = ("NotImplemented", "MethodNotAllowed", "501", "405")


class Entry(NamedTuple):
    """An object in a listing: its size in bytes, and its ETag where the server gives it."""

    size: int
    tag: str | None


def size_of(location: Location) -> int | None:
    """Size in bytes, or None if there is no such object.

    Uses a listing: a failed HEAD carries no error message.
    """
    bucket, key = split(location)
    with explained(location):
        page = persist(
            location, lambda: client().list_objects_v2(Bucket=bucket, Prefix=key, MaxKeys=1)
        )
    first = page.get("Contents", [{"Key": None}])[0]
    return first["Size"] if first["Key"] == key else None


def entries_below(location: Location) -> dict[str, Entry]:
    """Every object below a location, by relative name."""
    bucket, key = split(location)
    prefix = f"{key}/" if key else ""
    with explained(location):
        return {
            item["Key"].removeprefix(prefix): Entry(item["Size"], _tag(item))
            for page in _pages(location, {"Bucket": bucket, "Prefix": prefix})
            for item in page.get("Contents", [])
        }


def latest_below(location: Location, name: re.Pattern[str]) -> str:
    """The relative name of the object written last among those whose own name matches.

    One request for the first page, which is not repeated. Raises ValueError if there is none.
    """
    bucket, key = split(location)
    page = client().list_objects_v2(Bucket=bucket, Prefix=f"{key}/")
    matches = [
        item for item in page.get("Contents", []) if name.fullmatch(item["Key"].rpartition("/")[2])
    ]
    last = max(matches, key=lambda item: item["LastModified"])
    return str(last["Key"].removeprefix(f"{key}/"))


def sizes_below(location: Location) -> dict[str, int]:
    """The size in bytes of every object below a location, by relative name."""
    return {name: entry.size for name, entry in entries_below(location).items()}


def remove(location: Location, *, first: str) -> None:
    """Removes an object and all below it, the object `first` of the directory before the others."""
    below = entries_below(location)
    if first in below:
        remove_all(location, [first])
    bucket, key = split(location)
    own = [key] if size_of(location) is not None else []
    _remove(location, bucket, [*own, *(f"{key}/{name}" for name in below if name != first)])
    # A gateway of a file system, which gives no ETags, keeps the folders that a removal of many
    # objects empties.
    has_folders = len(below) > 1 and any(entry.tag is None for entry in below.values())
    markers = [name for name in sizes_below(location) if is_marker(name)] if has_folders else []
    for name in sorted(markers, key=len, reverse=True):
        _delete_one(location, bucket, f"{key}/{name}")


def remove_all(location: Location, names: list[str]) -> None:
    """Removes objects by their names relative to a location."""
    bucket, key = split(location)
    _remove(location, bucket, [f"{key}/{name}" for name in names])


def _remove(location: Location, bucket: str, keys: list[str]) -> None:
    """A request for each thousand, or for each object where the server knows no other."""
    with explained(location):
        try:
            for start in range(0, len(keys) if len(keys) > 1 else 0, AT_ONCE):
                batch = keys[start : start + AT_ONCE]
                persist(location, functools.partial(_delete, bucket, batch))
            if len(keys) > 1:
                return
        except aws.ClientError as error:
            if code_of(error) not in UNSUPPORTED:
                raise
        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(lambda key: _delete_one(location, bucket, key), keys))


def _delete(bucket: str, keys: list[str]) -> None:
    """Raises ClientError with the first reason that the server gives for an object it keeps."""
    objects = {"Objects": [{"Key": key} for key in keys], "Quiet": True}
    answer = client().delete_objects(Bucket=bucket, Delete=objects)
    for error in answer.get("Errors", []):
        raise aws.ClientError({"Error": error}, "DeleteObjects")


def _delete_one(location: Location, bucket: str, key: str) -> None:
    persist(location, lambda: client().delete_object(Bucket=bucket, Key=key))


def _pages(location: Location, options: dict[str, str]) -> Iterator[dict[str, Any]]:
    while True:
        page = persist(location, lambda: client().list_objects_v2(**options))
        yield page
        if not page.get("IsTruncated"):
            return
        options["ContinuationToken"] = page["NextContinuationToken"]


def _tag(item: dict[str, Any]) -> str | None:
    return item.get("ETag", "").strip('"') or None
