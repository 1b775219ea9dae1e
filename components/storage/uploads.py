"""Files sent to object storage, in parts that are sent in parallel and verified by the server.

Each object keeps its sha256 in its metadata, by which every later reader verifies it. Parts of an
upload that fails are removed. Those that a killed process has sent are used by the next upload of
the same file; `abort` removes them where there will be none.
"""

import contextlib
import functools
import hashlib
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import botocore.exceptions as aws

from components.artifact import checksum
from components.storage import objects
from components.storage.checksums import SHA256, md5_of
from components.storage.connection import ANONYMOUS, client, code_of, explained, split
from components.storage.errors import Location
from components.storage.listing import UNSUPPORTED
from components.storage.progress import Progress
from components.storage.retries import persist

PART = 32 << 20  # bytes; smaller ones cost both sides time (docs/log.md)
MOST = 10_000  # parts of an object
THREADS = 4
IN_MEMORY = threading.BoundedSemaphore(6)  # parts, of all files together
NOTHING = ("NoSuchUpload", "AccessDenied", "403")
"""Reasons to begin anew: somebody finished the upload, or uploads may not be listed."""


def upload(
    file: Path, location: Location, *, sha256: str | None = None, progress: Progress | None = None
) -> None:
    """Sends a file, whose sha256 may be known. Object storage shows it only when it is complete."""
    bucket, key = split(location)
    size = file.stat().st_size
    target = {"Bucket": bucket, "Key": key}
    options = {**target, "Metadata": {SHA256: sha256 or checksum(file)}}
    counter = progress or Progress(str(location), size)
    with explained(location):
        if size > objects.PART:
            return _upload_parts(file, location, target, options, counter)
        content = file.read_bytes()
        body = {"Body": content, "ContentMD5": md5_of(content)}
        persist(location, lambda: client().put_object(**options, **body))
        counter.add(size)


def part_size(size: int) -> int:
    """Bytes of each part of an object."""
    return max(PART, -(-size // MOST))


def abort(location: Location, is_left: Callable[[str], bool]) -> None:
    """Removes the parts of unfinished uploads whose files, by relative name, are left-overs."""
    bucket, key = split(location)
    prefix = f"{key}/"
    with explained(location):
        try:
            page = persist(
                location,
                lambda: client().list_multipart_uploads(Bucket=bucket, Prefix=prefix),
            )
        except aws.ClientError as error:
            if code_of(error) in UNSUPPORTED:
                return
            raise
        for left in page.get("Uploads", []):
            if is_left(left["Key"].removeprefix(prefix)):
                own = {"Bucket": bucket, "Key": left["Key"], "UploadId": left["UploadId"]}
                persist(location, functools.partial(_remove, own))


def _upload_parts(
    file: Path,
    location: Location,
    target: dict[str, str],
    options: dict[str, Any],
    progress: Progress,
) -> None:
    """Goes on with the upload of a killed process, if there is one, or begins its own."""
    if unfinished := _unfinished(file, location, target):
        _finish(file, location, *unfinished, progress)
        if _is_of(options, location, target):
            return
    started = persist(location, lambda: client().create_multipart_upload(**options))
    _finish(file, location, {**target, "UploadId": started["UploadId"]}, {}, progress)


def _finish(
    file: Path, location: Location, own: dict[str, str], sent: dict[int, str], progress: Progress
) -> None:
    """Sends the parts of an upload that are not `sent`, and puts all together."""
    try:
        _complete(location, own, _send(file, location, own, sent, progress))
    except BaseException:
        _abort(own)
        raise


def _send(
    file: Path, location: Location, own: dict[str, str], sent: dict[int, str], progress: Progress
) -> list[dict[str, Any]]:
    """Sends the parts that are not sent yet, `THREADS` at a time; returns all for completion.

    The signature covers the content, by which the server verifies it; without there is an MD5.
    """
    size = part_size(file.stat().st_size)
    is_signed = os.environ.get(ANONYMOUS, "0") == "0"

    def send(number: int) -> dict[str, Any]:
        with IN_MEMORY:
            content = _part(file, number, size)
            if number in sent:
                progress.skip(len(content))
                return {"PartNumber": number, "ETag": sent[number]}
            options = {**own, "PartNumber": number, "Body": content}
            options |= {} if is_signed else {"ContentMD5": md5_of(content)}
            answer = persist(location, lambda: client().upload_part(**options))
            progress.add(len(content))
            return {"PartNumber": number, "ETag": answer["ETag"]}

    count = -(-file.stat().st_size // size)
    with ThreadPoolExecutor(THREADS) as pool:
        try:
            return list(pool.map(send, range(1, count + 1)))
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _part(file: Path, number: int, size: int) -> bytes:
    with file.open("rb") as stream:
        stream.seek((number - 1) * size)
        return stream.read(size)


def _unfinished(
    file: Path, location: Location, target: dict[str, str]
) -> tuple[dict[str, str], dict[int, str]] | None:
    """The upload of this file that a killed process began, and the ETags of the parts it sent.

    An upload without parts is passed over: it may be another process's, of other content.
    """
    try:
        page = persist(
            location,
            lambda: client().list_multipart_uploads(Bucket=target["Bucket"], Prefix=target["Key"]),
        )
        for upload in page.get("Uploads", []):
            own = {**target, "UploadId": upload["UploadId"]}
            if upload["Key"] == target["Key"] and (sent := _parts(file, location, own)):
                return own, sent
    except aws.ClientError as error:
        if code_of(error) not in (*UNSUPPORTED, *NOTHING):
            raise
    return None


def _parts(file: Path, location: Location, own: dict[str, str]) -> dict[int, str]:
    """The ETags of the parts of an upload by number; empty unless all are parts of the file."""
    size, sent, options = part_size(file.stat().st_size), dict[int, str](), dict[str, Any](own)
    while True:
        page = persist(location, lambda: client().list_parts(**options))
        for part in page.get("Parts", []):
            content = _part(file, part["PartNumber"], size)
            digest = hashlib.md5(content, usedforsecurity=False).hexdigest()
            if part["ETag"].strip('"') != digest:
                return {}
            sent[part["PartNumber"]] = part["ETag"]
        if not page.get("IsTruncated"):
            return sent
        options["PartNumberMarker"] = page["NextPartNumberMarker"]


def _is_of(options: dict[str, Any], location: Location, target: dict[str, str]) -> bool:
    """Whether the object carries the file's sha256: its upload was begun by another process."""
    head = persist(location, lambda: client().head_object(**target))
    return head.get("Metadata", {}).get(SHA256) in (None, options["Metadata"][SHA256])


def _complete(location: Location, own: dict[str, str], parts: list[dict[str, Any]]) -> None:
    """Puts the parts together. If the answer of a try was lost, the upload is no longer known."""
    try:
        persist(
            location,
            lambda: client().complete_multipart_upload(**own, MultipartUpload={"Parts": parts}),
        )
    except aws.ClientError as error:
        if code_of(error) != "NoSuchUpload":
            raise
        persist(location, lambda: client().head_object(Bucket=own["Bucket"], Key=own["Key"]))


def _abort(upload: dict[str, str]) -> None:
    """A failure here must not hide the failure of the upload; `abort` comes back to its parts."""
    with contextlib.suppress(aws.ClientError, aws.BotoCoreError):
        _remove(upload)


def _remove(upload: dict[str, str]) -> None:
    """Removes the parts of an upload, which another process may have done meanwhile."""
    try:
        client().abort_multipart_upload(**upload)
    except aws.ClientError as error:
        if code_of(error) != "NoSuchUpload":
            raise
