"""Object storage and the Hub; the only module that opens a network connection.

A location is a local path or s3://BUCKET/KEY, and both behave alike: a file is written whole or not
at all. Endpoint, region and credentials come from the standard AWS_* variables, Hub tokens from
HF_TOKEN. Whole directories are in `components.directories`; what files mean is not known here.
"""

import atexit
import contextlib
import fnmatch
import functools
import io
import json
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import boto3
import botocore.exceptions as aws
import httpx2
from botocore.config import Config
from huggingface_hub import HfFileSystem, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

MANIFEST = ".manifest.json"
HUB = "hf://"
ATTEMPTS = 5  # of each request; botocore waits longer before each, AWS_MAX_ATTEMPTS overrides
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
Location = str | Path


class StorageError(ValueError):
    """A location that cannot be read or written: one line that names it and the reason."""


class AlreadyThere(StorageError, FileExistsError):
    """Something complete is at a location that was to be new."""


def is_remote(location: Location) -> bool:
    """Whether a location is in object storage. Raises StorageError on an unknown scheme."""
    scheme, separator, _ = str(location).partition("://")
    if separator and scheme != "s3":
        hub = "; hf:// is for reading rows" if scheme == "hf" else ""
        raise StorageError(
            f"{location}: unknown scheme, allowed: a local path or s3://BUCKET/KEY{hub}"
        )
    return bool(separator)


def join(location: Location, name: str) -> str:
    """The location of `name` below a directory."""
    return f"{str(location).rstrip('/')}/{name}"


def exists(location: Location) -> bool:
    """Whether a file, or a directory with its manifest, is there."""
    if not is_remote(location):
        path = Path(location)
        return path.is_file() or (path / MANIFEST).is_file()
    bucket, key = _split(location)
    return any(_size(bucket, name) is not None for name in (key, f"{key}/{MANIFEST}"))


def list_files(location: Location) -> dict[str, int]:
    """Every file below a directory, by its relative name, with its bytes; empty where none is."""
    if is_remote(location):
        bucket, key = _split(location)
        prefix = f"{key}/" if key else ""
        return {name.removeprefix(prefix): size for name, size in _sizes(bucket, prefix).items()}
    root = Path(location)
    files = sorted(file for file in root.rglob("*") if file.is_file())
    return {file.relative_to(root).as_posix(): file.stat().st_size for file in files}


def find(pattern: Location) -> list[str]:
    """The files at a location: the file itself, all below a directory, or what * and ? match.

    Raises FileNotFoundError where there is none.
    """
    text = str(pattern)
    if text.startswith(HUB):
        return _find_on_hub(text)
    if not any(sign in text for sign in "*?"):
        whole = [join(text, name) for name in list_files(text) if not _is_hidden(name)]
        found = [text] if exists(text) and not whole else whole
    else:
        head = text[: min(text.find(sign) for sign in "*?" if sign in text)]
        root, _, _ = head.rpartition("/")
        rest = text[len(root) + 1 :] if root else text
        below = list_files(root or ("/" if text.startswith("/") else "."))
        names = [name for name in below if PurePosixPath(name).match(rest)]
        depth = rest.count("/")
        found = [join(root, name) if root else name for name in names if name.count("/") == depth]
    if not found:
        raise FileNotFoundError(f"{pattern}: no such file")
    return sorted(found)


def open_file(location: Location) -> BinaryIO:
    """A file for reading, seekable; from object storage it is read by ranges, with retries."""
    if str(location).startswith(HUB):
        with _explained_hub(location):
            return HfFileSystem().open(str(location), "rb", block_size=PART)
    if not is_remote(location):
        return open(location, "rb")
    return io.BufferedReader(_Ranges(str(location)), PART)


def get_file(location: Location, local: Path) -> None:
    """Copies a file here, whole or not at all."""
    local.parent.mkdir(parents=True, exist_ok=True)
    draft = beside(local)
    try:
        if is_remote(location):
            _download(str(location), draft)
        else:
            shutil.copyfile(location, draft)
        draft.replace(local)
    finally:
        draft.unlink(missing_ok=True)


def put_file(local: Path, location: Location) -> None:
    """Copies a local file to a location, whole or not at all."""
    if not is_remote(location):
        return get_file(local, Path(location))
    bucket, key = _split(location)
    with local.open("rb") as stream, _explained(location):
        _client().upload_fileobj(stream, bucket, key)


def read_json(location: Location) -> Any:
    """The content of a JSON file. Raises StorageError where it is not JSON."""
    with open_file(location) as stream:
        content = stream.read()
    try:
        return json.loads(content)
    except ValueError as error:
        raise StorageError(f"{location}: not JSON: {error}") from None


def write_json(location: Location, value: Any, *, new: bool = False) -> None:
    """Writes a JSON file at once. `new` raises AlreadyThere where one is there already."""
    content = json.dumps(value, indent=1).encode()
    if is_remote(location):
        return _put_object(location, content, new)
    path = Path(location)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = beside(path)
    try:
        _write_durably(draft, content)
        if new:
            os.link(draft, path)
        else:
            draft.replace(path)
    except FileExistsError:
        raise AlreadyThere(f"{location}: is there already") from None
    finally:
        draft.unlink(missing_ok=True)


def delete(location: Location) -> None:
    """Removes a file, or a directory with all below it, manifest first; absent is fine."""
    if not is_remote(location):
        path = Path(location)
        (path / MANIFEST).unlink(missing_ok=True) if path.is_dir() else None
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        return
    bucket, key = _split(location)
    below = [f"{key}/{name}" for name in list_files(location)]
    own = [key] if _size(bucket, key) is not None else []
    names = sorted([*own, *below], key=lambda name: name != f"{key}/{MANIFEST}")
    with _explained(location):
        for name in names:
            _client().delete_object(Bucket=bucket, Key=name)


def fetch(name: str, revision: str | None, *, kind: str, patterns: list[str]) -> Path:
    """The local directory `name`, or a copy of the files that match from S3 or the Hub.

    `kind` is "model" or "dataset". Raises StorageError naming what could not be fetched.
    """
    if Path(name).is_dir():
        return Path(name)
    if name.startswith("s3://"):
        folder = Path(tempfile.mkdtemp(prefix="fetched-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        for file in list_files(name):
            if any(fnmatch.fnmatch(file, pattern) for pattern in patterns):
                get_file(join(name, file), folder / file)
        if not any(folder.iterdir()):
            raise StorageError(f"{kind} {name!r}: no {', '.join(patterns)} is there")
        return folder
    try:
        return Path(
            snapshot_download(name, revision=revision, repo_type=kind, allow_patterns=patterns)
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise StorageError(
            f"{kind} {name!r} is neither a local directory nor to be had from the Hub: {reason}"
        ) from error


def _find_on_hub(pattern: str) -> list[str]:
    with _explained_hub(pattern):
        hub = HfFileSystem()
        names = hub.glob(pattern) if any(sign in pattern for sign in "*?") else hub.find(pattern)
    if not names:
        raise FileNotFoundError(f"{pattern}: no such file on the Hub")
    return sorted(f"{HUB}{name.removeprefix(HUB)}" for name in names)


@contextlib.contextmanager
def _explained_hub(location: Location) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{location}: no such file on the Hub") from error
    except (HfHubHTTPError, ValueError, httpx2.HTTPError, OSError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise StorageError(f"{location}: not to be had from the Hub: {reason}") from error


class _Ranges(io.RawIOBase):
    """An object read by ranged requests, each tried again when the connection breaks."""

    def __init__(self, location: str) -> None:
        self.location, self.position = location, 0
        self.size = _found(location)

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
        """The rest at once; the default asks for a few kilobytes at a time."""
        first, self.position = self.position, max(self.position, self.size)
        starts = range(first, self.size, PART)
        return b"".join(
            _range(self.location, start, min(start + PART, self.size)) for start in starts
        )


def _download(location: str, file: Path) -> None:
    """Fetches an object's parts side by side."""
    size = _found(location)
    with file.open("wb") as stream, ThreadPoolExecutor(8) as pool:
        stream.truncate(size)

        def part(start: int) -> None:
            os.pwrite(stream.fileno(), _range(location, start, min(start + PART, size)), start)

        for _ in pool.map(part, range(0, size, PART)):
            pass


def _range(location: str, start: int, end: int) -> bytes:
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
    """One client for each state of the environment; boto3 reads the variables itself."""
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


def _sizes(bucket: str, prefix: str) -> dict[str, int]:
    """Every object whose key begins with `prefix`."""
    with _explained(f"s3://{bucket}/{prefix}"):
        pages = _client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        found = [item for page in pages for item in page.get("Contents", [])]
    return {item["Key"]: item["Size"] for item in found}


def _size(bucket: str, key: str) -> int | None:
    """Bytes of an object, None where there is none; a listing says what is wrong, a HEAD not."""
    with _explained(f"s3://{bucket}/{key}"):
        page = _client().list_objects_v2(Bucket=bucket, Prefix=key, MaxKeys=1)
    first = page.get("Contents", [{"Key": None}])[0]
    return first["Size"] if first["Key"] == key else None


def _found(location: str) -> int:
    """Bytes of an object. Raises FileNotFoundError where there is none."""
    size = _size(*_split(location))
    if size is None:
        raise FileNotFoundError(f"{location}: no such object")
    return size


def _put_object(location: Location, content: bytes, new: bool) -> None:
    """One request; If-None-Match settles who was first where the server knows it."""
    bucket, key = _split(location)
    if new and _size(bucket, key) is not None:
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
    except (aws.BotoCoreError, boto3.exceptions.Boto3Error) as error:
        raise StorageError(f"{location}: {error}") from error
    except ValueError as error:
        if "endpoint" not in str(error):
            raise
        raise StorageError(f"{location}: AWS_ENDPOINT_URL={endpoint!r}: {error}") from error


def beside(path: Path) -> Path:
    """A hidden new name in the same directory, so that a rename replaces at once."""
    return path.parent / f".{path.name}.draft-{uuid.uuid4().hex[:8]}"


def _write_durably(path: Path, content: bytes) -> None:
    with path.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") for part in PurePosixPath(name).parts)
