"""Files sent to object storage, in parts that are sent in parallel and verified by the server.

Each object keeps its sha256 in its metadata, by which every later reader verifies it. Parts of an
upload that fails are removed; those of a killed process by `abort`.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import botocore.exceptions as aws

from components.artifact import checksum
from components.storage.checksums import SHA256, md5_of
from components.storage.connection import client, code_of, explained, split
from components.storage.errors import Location
from components.storage.objects import IN_MEMORY, PART, THREADS
from components.storage.retries import persist

MOST = 10_000  # parts of an object
UNSUPPORTED = ("NotImplemented", "MethodNotAllowed", "501", "405")


def upload(file: Path, location: Location) -> None:
    """Sends a file. Object storage shows it only when it is complete."""
    bucket, key = split(location)
    size = file.stat().st_size
    target = {"Bucket": bucket, "Key": key}
    options = {**target, "Metadata": {SHA256: checksum(file)}}
    with explained(location):
        if size > PART:
            return _upload_parts(file, location, target, options, max(PART, -(-size // MOST)))
        content = file.read_bytes()
        body = {"Body": content, "ContentMD5": md5_of(content)}
        persist(location, lambda: client().put_object(**options, **body))


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
                _abort({"Bucket": bucket, "Key": left["Key"], "UploadId": left["UploadId"]})


def _upload_parts(
    file: Path, location: Location, target: dict[str, str], options: dict[str, Any], size: int
) -> None:
    started = persist(location, lambda: client().create_multipart_upload(**options))
    own = {**target, "UploadId": started["UploadId"]}
    try:
        tags = _send(file, location, own, size)
        parts = [{"PartNumber": n, "ETag": tag} for n, tag in enumerate(tags, 1)]
        _complete(location, own, parts)
    except BaseException:
        _abort(own)
        raise


def _send(file: Path, location: Location, own: dict[str, str], size: int) -> list[str]:
    """Sends all parts, `THREADS` of them in memory at a time; returns their ETags."""

    def send(number: int) -> str:
        with IN_MEMORY:
            with file.open("rb") as stream:
                stream.seek((number - 1) * size)
                content = stream.read(size)
            options = {**own, "PartNumber": number, "Body": content, "ContentMD5": md5_of(content)}
            return persist(location, lambda: client().upload_part(**options))["ETag"]

    count = -(-file.stat().st_size // size)
    with ThreadPoolExecutor(THREADS) as pool:
        futures = [pool.submit(send, number) for number in range(1, count + 1)]
        try:
            return [future.result() for future in futures]
        except BaseException:
            for future in futures:
                future.cancel()
            raise


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
    try:
        client().abort_multipart_upload(**upload)
    except (aws.ClientError, aws.BotoCoreError):
        return
