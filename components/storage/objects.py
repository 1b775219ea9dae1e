"""Files in S3-compatible object storage, by locations s3://BUCKET/KEY.

Endpoint, region and credentials come from the standard AWS_* variables. Requests are retried; one
that fails for good is reported in one line that names the location.
"""

import contextlib
import functools
import io
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3
import botocore.exceptions as aws
from botocore.config import Config

from components.storage.errors import AlreadyThere, Location, StorageError
from model.options import check

ATTEMPTS = 5  # of each request, at growing intervals; AWS_MAX_ATTEMPTS overrides it
PART = 8 << 20  # bytes of one ranged request
ENVIRONMENT = (
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_PROFILE",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "AWS_MAX_ATTEMPTS",
)
WHOLE = (
    "AWS_MAX_ATTEMPTS",
    "AWS_METADATA_SERVICE_NUM_ATTEMPTS",
    "AWS_METADATA_SERVICE_TIMEOUT",
)
SECRETS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")


class Ranges(io.RawIOBase):
    """An object read by ranged requests, each tried again when the connection breaks."""

    def __init__(self, location: Location) -> None:
        self.location, self.position = location, 0
        size = size_of(location)
        if size is None:
            raise FileNotFoundError(f"{location}: no such object")
        self.size = size

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self.position, io.SEEK_END: self.size}[whence]
        self.position = max(start + offset, 0)
        return self.position

    def readinto(self, buffer: Any) -> int:
        end = min(self.position + len(buffer), self.size)
        if end <= self.position:
            return 0
        buffer[: end - self.position] = _range(self.location, self.position, end)
        read, self.position = end - self.position, end
        return read

    def readall(self) -> bytes:
        """Reads large ranges; the base class would request a few kilobytes at a time."""
        first, self.position = self.position, max(self.position, self.size)
        starts = range(first, self.size, PART)
        return b"".join(
            _range(self.location, start, min(start + PART, self.size)) for start in starts
        )


def size_of(location: Location) -> int | None:
    """Size in bytes, or None if there is no such object.

    Uses a listing: a failed HEAD carries no error message.
    """
    bucket, key = _split(location)
    with _explained(location):
        page = _client().list_objects_v2(Bucket=bucket, Prefix=key, MaxKeys=1)
    first = page.get("Contents", [{"Key": None}])[0]
    return first["Size"] if first["Key"] == key else None


def sizes_below(location: Location) -> dict[str, int]:
    """The size in bytes of every object below a location, by relative name."""
    bucket, key = _split(location)
    prefix = f"{key}/" if key else ""
    with _explained(location):
        pages = _client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        items = [item for page in pages for item in page.get("Contents", [])]
    return {item["Key"].removeprefix(prefix): item["Size"] for item in items}


def download(location: Location, file: Path) -> None:
    """Fetches an object's ranges in parallel."""
    size = Ranges(location).size
    with file.open("wb") as stream, ThreadPoolExecutor(8) as pool:
        stream.truncate(size)

        def part(start: int) -> None:
            os.pwrite(stream.fileno(), _range(location, start, min(start + PART, size)), start)

        for _ in pool.map(part, range(0, size, PART)):
            pass


def upload(file: Path, location: Location) -> None:
    """Sends a file. Object storage shows it only when it is complete."""
    bucket, key = _split(location)
    with file.open("rb") as stream, _explained(location):
        _client().upload_fileobj(stream, bucket, key)


def put(location: Location, content: bytes, *, new: bool) -> None:
    """Writes an object in one request. With `new`, raises AlreadyThere if there is one.

    Of two writers at once, If-None-Match refuses the second, if the server knows that condition.
    """
    bucket, key = _split(location)
    if new and size_of(location) is not None:
        raise AlreadyThere(f"{location}: is there already")
    condition = {"IfNoneMatch": "*"} if new else {}
    with _explained(location):
        try:
            _client().put_object(Bucket=bucket, Key=key, Body=content, **condition)
        except aws.ClientError as error:
            if _code(error) in ("PreconditionFailed", "412", "ConditionalRequestConflict"):
                raise AlreadyThere(f"{location}: is there already") from None
            if not new or _code(error) != "NotImplemented":
                raise
            _client().put_object(Bucket=bucket, Key=key, Body=content)


def remove(location: Location, *, first: str) -> None:
    """Removes an object and all below it, the object `first` of the directory before the others."""
    bucket, key = _split(location)
    below = sorted(sizes_below(location), key=lambda name: name != first)
    own = [key] if size_of(location) is not None else []
    for each in [*own, *(f"{key}/{name}" for name in below)]:
        with _explained(location):
            _client().delete_object(Bucket=bucket, Key=each)


def _range(location: Location, start: int, end: int) -> bytes:
    """Bytes `start` to `end` (exclusive) of an object."""
    bucket, key = _split(location)
    broken = (aws.ResponseStreamingError, aws.IncompleteReadError, aws.ReadTimeoutError)
    with _explained(location):
        for attempt in range(1, ATTEMPTS + 1):
            try:
                answer = _client().get_object(
                    Bucket=bucket, Key=key, Range=f"bytes={start}-{end - 1}"
                )
                return answer["Body"].read()
            except broken:
                if attempt == ATTEMPTS:
                    raise
                time.sleep(0.1 * 2**attempt)
    raise AssertionError("the loop returns or raises")


def _client() -> Any:
    return _connect(tuple(os.environ.get(name) for name in ENVIRONMENT))


@functools.cache
def _connect(environment: tuple[str | None, ...]) -> Any:
    """One client for each state of the environment, which boto3 reads itself."""
    for name in WHOLE:
        value = os.environ.get(name, "1")
        check(name, value, value.isdecimal() and int(value) >= 1, "a whole number, 1 or more")
    for name in SECRETS:
        if any(sign.isspace() for sign in os.environ.get(name, "")):
            # Not `check`, which would show the secret.
            raise ValueError(f"{name} holds white space, allowed: the key alone")
    attempts = int(os.environ.get("AWS_MAX_ATTEMPTS", ATTEMPTS))
    settings = Config(
        connect_timeout=10,
        retries={"mode": "standard", "total_max_attempts": attempts},
        # Servers other than Amazon's refuse the checksums that boto3 adds; manifests hold ours.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    return boto3.session.Session().client("s3", config=settings)


def _split(location: Location) -> tuple[str, str]:
    bucket, _, key = str(location).removeprefix("s3://").partition("/")
    if not bucket:
        raise StorageError(f"{location}: names no bucket, allowed: s3://BUCKET/KEY")
    return bucket, key.rstrip("/")


def _code(error: aws.ClientError) -> str:
    return error.response.get("Error", {}).get("Code", "")


@contextlib.contextmanager
def _explained(location: Location) -> Iterator[None]:
    """Turns the client's exceptions into one line that names the location and what to do."""
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    try:
        yield
    except aws.ClientError as error:
        code = _code(error)
        if code in ("NoSuchKey", "404"):
            raise FileNotFoundError(f"{location}: no such object") from error
        reason = {
            "NoSuchBucket": "no such bucket",
            "SignatureDoesNotMatch": "refused, AWS_SECRET_ACCESS_KEY is wrong",
            "InvalidAccessKeyId": "refused, AWS_ACCESS_KEY_ID is unknown",
            "AccessDenied": "refused, these credentials may not do this",
            "403": "refused, the credentials are wrong or may not do this",
        }.get(code, f"{code}: {error.response.get('Error', {}).get('Message', '')}")
        raise StorageError(f"{location}: {reason} (endpoint {endpoint or 'of AWS'})") from error
    except (aws.NoCredentialsError, aws.PartialCredentialsError) as error:
        raise StorageError(
            f"{location}: no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        ) from error
    except (aws.HTTPClientError, aws.EndpointConnectionError) as error:
        raise StorageError(
            f"{location}: endpoint {endpoint or 'of AWS'} does not answer: {error}"
        ) from error
    except StorageError:
        raise
    # The client also raises plain ValueErrors, for variables that are malformed.
    except (aws.BotoCoreError, boto3.exceptions.Boto3Error, ValueError) as error:
        raise StorageError(f"{location}: {error}{_named(error)}") from error


def _named(error: Exception) -> str:
    """The environment variables whose value an error message quotes."""
    variables = [
        name if name.upper().endswith("_PROXY") else f"{name}={value!r}"  # a proxy's may hold a key
        for name, value in sorted(os.environ.items())
        if name.upper().startswith("AWS_") or name.upper().endswith("_PROXY")
        if len(value) > 2 and name not in SECRETS and value in str(error)
    ]
    return f" ({', '.join(variables)})" if variables else ""
