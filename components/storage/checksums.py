"""Checksums of objects: by which a server verifies what it gets, and we what we get."""

import base64
import hashlib
from pathlib import Path
from typing import NamedTuple

from components.storage.errors import Changed

SHA256 = "sha256"  # the metadata of our own uploads
CHUNK = 1 << 20
MEGABYTES = (8, 5, 16, 32, 64, 128)  # usual sizes of parts


class Facts(NamedTuple):
    """An object's size in bytes, its ETag, and its sha256 where we uploaded it."""

    size: int
    tag: str | None
    sha256: str | None
    is_md5: bool
    """Whether the ETag is made of MD5 sums, as it is without a key of the customer."""


class Digest:
    """The checksum of an object's content that its server gave, added piece by piece in its order.

    Nothing is computed where there is none: JuiceFS gives none, and an ETag may be of parts.
    """

    def __init__(self, facts: Facts) -> None:
        self.expected: str | None = facts.sha256
        self.own = hashlib.sha256() if facts.sha256 is not None else None
        if self.own is None and facts.is_md5 and facts.tag and "-" not in facts.tag:
            self.expected = facts.tag
            self.own = hashlib.md5(usedforsecurity=False)

    def add(self, content: bytes | bytearray) -> None:
        if self.own is not None:
            self.own.update(content)

    def check(self) -> None:
        """Raises Changed if the content is not the object's."""
        if self.own is not None and self.own.hexdigest() != self.expected:
            raise Changed("its content is not that of the object, by its checksum")


def md5_of(content: bytes) -> str:
    """The Content-MD5 of a request, by which the server verifies what arrives."""
    return base64.b64encode(hashlib.md5(content, usedforsecurity=False).digest()).decode()


def sha256_of(content: bytes) -> str:
    """The sha256 in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def verify_parts(file: Path, facts: Facts) -> None:
    """Compares the MD5 sums of the parts of an object that another program sent in parts.

    Raises Changed where sizes of parts are known and none fits.
    """
    if facts.sha256 is not None or not facts.is_md5 or not facts.tag or "-" not in facts.tag:
        return
    count = int(facts.tag.partition("-")[2])
    sizes = [size << 20 for size in MEGABYTES if -(-facts.size // (size << 20)) == count]
    if sizes and facts.tag not in (tag_of(file, size) for size in sizes):
        raise Changed("its content is not that of the object, by the checksums of its parts")


def tag_of(file: Path, size: int) -> str:
    """The ETag of an object that was uploaded in parts of so many bytes."""
    sums = []
    with file.open("rb") as stream:
        while content := stream.read(size):
            sums.append(hashlib.md5(content, usedforsecurity=False).digest())
    return f"{hashlib.md5(b''.join(sums), usedforsecurity=False).hexdigest()}-{len(sums)}"
