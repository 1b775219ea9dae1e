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
    """The checksums of an object's content, added piece by piece in its order."""

    def __init__(self, facts: Facts) -> None:
        self.facts = facts
        self.sha256, self.md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)

    def add(self, content: bytes) -> None:
        self.sha256.update(content)
        self.md5.update(content)

    def check(self) -> None:
        """Raises Changed if the content is not the object's."""
        facts = self.facts
        if facts.sha256 is not None:
            expected, actual = facts.sha256, self.sha256.hexdigest()
        elif facts.is_md5 and facts.tag and "-" not in facts.tag:
            expected, actual = facts.tag, self.md5.hexdigest()
        else:
            return
        if expected != actual:
            raise Changed("its content is not that of the object, by its checksum")


def md5_of(content: bytes) -> str:
    """The Content-MD5 of a request, by which the server verifies what arrives."""
    return base64.b64encode(hashlib.md5(content, usedforsecurity=False).digest()).decode()


def sha256_of(content: bytes) -> str:
    """The sha256 in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def verify(file: Path, facts: Facts) -> None:
    """Raises Changed unless a file is the object, as far as the server tells."""
    digest = Digest(facts)
    with file.open("rb") as stream:
        while content := stream.read(CHUNK):
            digest.add(content)
    digest.check()
    if facts.sha256 is None and facts.is_md5 and facts.tag and "-" in facts.tag:
        _verify_parts(file, facts)


def _verify_parts(file: Path, facts: Facts) -> None:
    """Compares the MD5 sums of the parts; Changed where sizes of parts are known and none fits."""
    assert facts.tag is not None
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
