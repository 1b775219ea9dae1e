"""Reads from the Hugging Face Hub: rows by hf:// addresses, models and datasets by name.

HF_TOKEN holds the token, HF_ENDPOINT the address of another server.
"""

import contextlib
import hashlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import httpx2
from huggingface_hub import HfApi, HfFileSystem, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from components.storage.errors import Location, StorageError, Unavailable
from components.storage.objects import PART

SCHEME = "hf://"


def is_on_hub(location: Location) -> bool:
    """Whether a location is an hf:// address."""
    return str(location).startswith(SCHEME)


def sizes(location: str) -> dict[str, int]:
    """The size in bytes of each file below a folder, by relative name. A file is listed as ""."""
    try:
        with _explained(location):
            files = HfFileSystem()
            root = files.resolve_path(location).unresolve()
            entries = files.find(location, detail=True)
    except FileNotFoundError:
        return {}
    assert isinstance(entries, dict)
    return {name.removeprefix(root).lstrip("/"): facts["size"] for name, facts in entries.items()}


def open_file(location: str) -> BinaryIO:
    """A file for reading, seekable, fetched in ranges."""
    return io.BufferedReader(_Ranges(location), PART)


def snapshot(name: str, revision: str | None, *, kind: str, patterns: list[str]) -> Path:
    """A local copy of a repository's matching files. Raises StorageError naming the repository.

    Each file is compared with the checksum that the Hub publishes.
    """
    try:
        folder = Path(
            snapshot_download(name, revision=revision, repo_type=kind, allow_patterns=patterns)
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None and not _is_of_the_net(error):
            raise  # the disk of the client's cache
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise _kind(error)(
            f"{kind} {name!r} is neither a local directory nor to be had from the Hub: {reason}"
        ) from error
    for file in sorted(folder.rglob("*")):
        _verify(file, f"{kind} {name!r}")
    return folder


def names(name: str, revision: str | None, *, kind: str) -> list[str]:
    """The files of a repository."""
    with _explained(f"{kind} {name!r}"):
        return HfApi().list_repo_files(name, revision=revision, repo_type=kind)


def _kind(error: BaseException) -> type[StorageError]:
    """Whether the Hub or the way to it fails, or the name is wrong; the client wraps both alike."""
    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(cause)
    for each in chain:
        if isinstance(each, HfHubHTTPError):
            status = each.response.status_code
            return Unavailable if status >= 500 or status == 429 else StorageError
    return Unavailable if any(map(_is_of_the_net, chain)) else StorageError


def _is_of_the_net(error: BaseException) -> bool:
    return isinstance(error, (httpx2.TransportError, ConnectionError, TimeoutError))


def _verify(file: Path, source: str) -> None:
    """The client keeps a file under its checksum: git's for small files, else its sha256."""
    if not file.is_symlink() or not file.is_file():
        return
    blob = file.resolve()
    header = f"blob {blob.stat().st_size}\0".encode()
    digests = {40: hashlib.sha1(header, usedforsecurity=False), 64: hashlib.sha256()}
    digest = digests.get(len(blob.name))
    if digest is None:
        return
    with blob.open("rb") as stream:
        while content := stream.read(PART):
            digest.update(content)
    if digest.hexdigest() != blob.name:
        blob.unlink()
        file.unlink()
        raise Unavailable(
            f"{source}: {file.name} is not what the Hub publishes, by its checksum; the copy is "
            "removed, and the same command fetches it anew"
        )


class _Ranges(io.RawIOBase):
    """The client's reader, which retries broken connections, with errors that name the file."""

    def __init__(self, location: str) -> None:
        self.location = location
        with _explained(location):
            self.file = HfFileSystem().open(location, "rb", block_size=PART)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.file.tell()

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self.file.seek(offset, whence)

    def readinto(self, buffer: Any) -> int:
        with _explained(self.location):
            content = self.file.read(len(buffer))
        buffer[: len(content)] = content
        return len(content)


@contextlib.contextmanager
def _explained(location: Location) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{location}: no such file on the Hub") from error
    except (HfHubHTTPError, ValueError, httpx2.HTTPError, OSError, RuntimeError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise _kind(error)(f"{location}: not to be had from the Hub: {reason}") from error
