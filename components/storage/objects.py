"""Files in S3-compatible object storage, by locations s3://BUCKET/KEY.

Every byte is verified: answers by their range, length and ETag, whole objects by the sha256 that
`uploads` keeps with them, or by the MD5 that most servers give as the ETag. A server that gives
neither leaves an object as it came; checkpoints have checksums of their own. Requests are tried
again (`retries`); one that fails for good is reported in one line that names the location.
"""

import io
import os
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import botocore.exceptions as aws

from components.storage.checksums import SHA256, Digest, Facts, md5_of, sha256_of
from components.storage.connection import client, code_of, explained, split
from components.storage.errors import AlreadyThere, Changed, Location, Spoilt
from components.storage.listing import size_of
from components.storage.retries import persist

PART = 8 << 20  # bytes of one ranged request into memory, and of the largest object in one request
CHUNK = 256 << 10
REPLACED = "another object took its place while it was read"
SLOWEST = 64 << 10  # bytes a second, below which an answer counts as broken
GRACE = 30.0  # seconds
TRIES = 3  # of a whole file whose content is not that of the object
T = TypeVar("T")


class Ranges(io.RawIOBase):
    """An object read by ranged requests. Its content is verified at the end if read in order."""

    def __init__(self, location: Location) -> None:
        self.location, self.position = location, 0
        self.facts = facts_of(location)
        self.size = self.facts.size
        self.digest, self.digested = Digest(self.facts), 0

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
        content = self._read(self.position, end)
        buffer[: len(content)] = content
        self.position = end
        return len(content)

    def readall(self) -> bytes:
        """Reads large ranges; the base class would request a few kilobytes at a time."""
        first, self.position = self.position, max(self.position, self.size)
        starts = range(first, self.size, PART)
        return b"".join(self._read(start, min(start + PART, self.size)) for start in starts)

    def _read(self, start: int, end: int) -> bytearray:
        with explained(self.location):
            content = read_range(self.location, start, end, self.facts)
            if start <= self.digested < end:
                self.digest.add(content[self.digested - start :])
                self.digested = end
                if end == self.size:
                    self.digest.check()
        return content


def facts_of(location: Location) -> Facts:
    """Raises FileNotFoundError if there is no such object."""
    bucket, key = split(location)
    with explained(location):
        try:
            head = persist(location, lambda: client().head_object(Bucket=bucket, Key=key))
        except aws.ClientError:
            # A failed HEAD carries no reason; a listing does.
            if size_of(location) is not None:
                raise
            raise FileNotFoundError(f"{location}: no such object") from None
    return _facts(head)


def _facts(answer: dict[str, Any]) -> Facts:
    tag = (answer.get("ETag") or "").strip('"')
    is_md5 = not answer.get("SSEKMSKeyId") and not answer.get("SSECustomerAlgorithm")
    is_md5 &= len(tag.partition("-")[0]) == 32
    sha256 = answer.get("Metadata", {}).get(SHA256)
    return Facts(answer["ContentLength"], tag or None, sha256, is_md5)


def get(location: Location) -> tuple[Facts, bytearray | None]:
    """An object's facts and, unless it is larger than a part, its content: in one request."""
    bucket, key = split(location)

    def request() -> tuple[Facts, bytearray | None]:
        answer = client().get_object(Bucket=bucket, Key=key)
        facts = _facts(answer)
        if facts.size <= PART:
            return facts, read_body(answer["Body"], facts.size)
        answer["Body"].close()
        return facts, None

    with explained(location):
        return persist(location, request)


def read(location: Location) -> bytes:
    """The content of an object, verified."""
    with explained(location):
        for attempt in range(1, TRIES + 1):
            facts, content = get(location)
            if content is None:
                return Ranges(location).readall()
            digest = Digest(facts)
            digest.add(content)
            try:
                digest.check()
                return bytes(content)
            except Changed:
                if attempt == TRIES:
                    raise
    raise AssertionError("the loop returns or raises")


def read_end(location: Location, size: int) -> bytes:
    """At most the last `size` bytes, for a look: neither verified nor requested again."""
    bucket, key = split(location)
    whole = client().head_object(Bucket=bucket, Key=key)["ContentLength"]
    part = f"bytes={max(0, whole - size)}-{whole - 1}"
    return bytes(client().get_object(Bucket=bucket, Key=key, Range=part)["Body"].read())


def put(location: Location, content: bytes, *, new: bool) -> None:
    """Writes an object in one request. With `new`, raises AlreadyThere if there is one.

    Of two writers at once, If-None-Match refuses the second, if the server knows that condition.
    A first try of ours whose answer was lost counts as success.
    """
    if new and size_of(location) is not None:
        raise AlreadyThere(f"{location}: is there already")
    try:
        _put(location, content, {"IfNoneMatch": "*"} if new else {})
    except AlreadyThere:
        with explained(location):
            if read(location) != content:
                raise


def _put(location: Location, content: bytes, condition: dict[str, str]) -> None:
    bucket, key = split(location)
    options: dict[str, Any] = {"Body": content, "ContentMD5": md5_of(content)}
    options["Metadata"] = {SHA256: sha256_of(content)}
    with explained(location):
        try:
            persist(
                location,
                lambda: client().put_object(Bucket=bucket, Key=key, **options, **condition),
            )
        except aws.ClientError as error:
            if code_of(error) in ("PreconditionFailed", "412", "ConditionalRequestConflict"):
                raise AlreadyThere(f"{location}: is there already") from None
            if not condition or code_of(error) != "NotImplemented":
                raise
            persist(location, lambda: client().put_object(Bucket=bucket, Key=key, **options))


def read_range(location: Location, start: int, end: int, facts: Facts) -> bytearray:
    """Bytes `start` to `end` (exclusive) of an object, which must still be the same one."""
    return _of_same(location, lambda: read_body(_range(location, start, end, facts), end - start))


def write_range(
    location: Location,
    start: int,
    end: int,
    facts: Facts,
    *,
    file: int,
    arrived: Callable[[int], None],
) -> None:
    """Writes such bytes to their place in a file, by its descriptor; `arrived` counts them.

    Where an answer breaks off, the next try asks for the bytes behind it.
    """
    position = start

    def request() -> None:
        nonlocal position
        answer = _range(location, position, end, facts)
        for chunk in _chunks(answer, end - position):
            os.pwrite(file, chunk, position)
            position += len(chunk)
            arrived(len(chunk))

    _of_same(location, request)


def _range(location: Location, start: int, end: int, facts: Facts) -> Any:
    """The body of the answer to one ranged request."""
    bucket, key = split(location)
    condition = {"IfMatch": f'"{facts.tag}"'} if facts.tag else {}
    answer = client().get_object(
        Bucket=bucket, Key=key, Range=f"bytes={start}-{end - 1}", **condition
    )
    if facts.tag and answer.get("ETag", facts.tag).strip('"') != facts.tag:
        raise Changed(REPLACED)  # some servers ignore the condition
    if answer.get("ContentRange") != (wanted := f"bytes {start}-{end - 1}/{facts.size}"):
        raise Spoilt(f"the answer holds {answer.get('ContentRange')}, not {wanted}")
    return answer["Body"]


def _of_same(location: Location, request: Callable[[], T]) -> T:
    """What a request on condition returns. Raises Changed where its condition does not hold."""
    try:
        return persist(location, request)
    except aws.ClientError as error:
        if code_of(error) in ("PreconditionFailed", "412"):
            raise Changed(REPLACED) from error
        raise


def read_body(stream: Any, size: int) -> bytearray:
    """An answer of `size` bytes."""
    content = bytearray(size)
    position = 0
    for chunk in _chunks(stream, size):
        content[position : position + len(chunk)] = chunk
        position += len(chunk)
    return content


def _chunks(stream: Any, size: int) -> Iterator[bytes]:
    """The content of an answer as it comes. Raises Spoilt if it is short, long, or only drips."""
    deadline = time.monotonic() + GRACE + size / SLOWEST
    count = 0
    while count < size and (chunk := stream.read(min(CHUNK, size - count))):
        count += len(chunk)
        yield chunk
        if time.monotonic() > deadline:
            stream.close()
            raise Spoilt(f"{count} of {size} bytes came in {GRACE + size / SLOWEST:.0f} seconds")
    if count != size:
        raise Spoilt(f"the answer ended after {count} of {size} bytes")
    if stream.read(1):
        stream.close()
        raise Spoilt(f"the answer goes on after {size} bytes")
