"""Reads from the Hugging Face Hub: rows by hf:// addresses, models and datasets by name.

HF_TOKEN holds the token, HF_ENDPOINT the address of another server.
"""

import contextlib
import hashlib
import io
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import httpx2
import huggingface_hub as client  # loads its parts, a fifth of a second, when they are first used
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
)

from components.storage.errors import Location, StorageError, Unavailable
from components.storage.objects import PART

SCHEME = "hf://"
PAUSES, LONGEST_PAUSE = 5, 600  # how often, and how many seconds, a Hub is waited for as it asks
PATIENCE = 30.0  # seconds until a server that does not say a commit counts as not there
T = TypeVar("T")


def is_on_hub(location: Location) -> bool:
    """Whether a location is an hf:// address."""
    return str(location).startswith(SCHEME)


def sizes(location: str) -> dict[str, int]:
    """The size in bytes of each file below a folder, by relative name. A file is listed as ""."""
    try:
        with _explained(location):
            files = client.HfFileSystem()
            path = _patient(location, lambda: files.resolve_path(location))
            root = path.unresolve()
            entries = _patient(location, lambda: files.find(location, detail=True))
    except FileNotFoundError:
        return {}
    assert isinstance(entries, dict)
    return {name.removeprefix(root).lstrip("/"): facts["size"] for name, facts in entries.items()}


def open_file(location: str) -> BinaryIO:
    """A file for reading, seekable, fetched in ranges."""
    return io.BufferedReader(_Ranges(location), PART)


def commit(name: str, revision: str | None, *, kind: str) -> str:
    """The commit of a model's or dataset's repository: of a branch, or of main for None.

    Raises StorageError naming the repository.
    """
    try:
        found = _patient(
            name,
            lambda: (
                client.HfApi()
                .repo_info(name, revision=revision, repo_type=kind, timeout=PATIENCE)
                .sha
            ),
        )
    except (HfHubHTTPError, HFValidationError, httpx2.HTTPError, OSError) as error:
        reason = _reason(error)
        raise _kind(error)(
            f"{kind} {name!r}: its commit is not to be had from the Hub: {reason}"
        ) from error
    if found is None:
        raise StorageError(f"{kind} {name!r}: the Hub names no commit of it")
    return found


def snapshot(name: str, revision: str | None, *, kind: str, patterns: list[str]) -> Path:
    """A local copy of a repository's matching files. Raises StorageError naming the repository.

    Each file is compared with the checksum that the Hub publishes.
    """
    try:
        folder = _patient(
            name,
            lambda: Path(
                client.snapshot_download(
                    name, revision=revision, repo_type=kind, allow_patterns=patterns
                )
            ),
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None and not _is_of_the_net(error):
            raise  # the disk of the client's cache
        reason = _reason(error)
        raise _kind(error)(
            f"{kind} {name!r} is neither a local directory nor to be had from the Hub: {reason}"
        ) from error
    for file in sorted(folder.rglob("*")):
        _verify(file, f"{kind} {name!r}")
    return folder


def names(name: str, revision: str | None, *, kind: str) -> list[str]:
    """The files of a repository."""
    with _explained(f"{kind} {name!r}"):
        return _patient(
            name, lambda: client.HfApi().list_repo_files(name, revision=revision, repo_type=kind)
        )


def _kind(error: BaseException) -> type[StorageError]:
    """Whether the Hub or the way to it fails, or the name is wrong; the client wraps both alike."""
    chain = list(_causes(error))
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
            files = client.HfFileSystem()
            self.file = _patient(location, lambda: files.open(location, "rb", block_size=PART))

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
        if _is_gated(error):
            raise StorageError(f"{location}: not to be had from the Hub: {GATED}") from error
        raise FileNotFoundError(f"{location}: no such file on the Hub") from error
    except (HfHubHTTPError, ValueError, httpx2.HTTPError, OSError, RuntimeError) as error:
        reason = _reason(error)
        raise _kind(error)(f"{location}: not to be had from the Hub: {reason}") from error


GATED = (
    "the repository is gated; accept its terms on its page, and set HF_TOKEN to a token of that "
    "account"
)


def _patient(location: Location, call: Callable[[], T]) -> T:
    """The result of a call, after the pauses for which a Hub that limits requests asks.

    The client itself waits for the contents of files, but not for listings.
    """
    for _ in range(PAUSES):
        try:
            return call()
        except (HfHubHTTPError, OSError) as error:
            seconds = _pause(error)
            if seconds is None or seconds > LONGEST_PAUSE:
                raise
        print(f"{location}: the Hub limits requests; waiting {seconds} s as it asks", flush=True)
        time.sleep(seconds)
    return call()


def _pause(error: BaseException) -> int | None:
    """The seconds that a Hub which limits requests asks to wait; None for any other error."""
    for cause in _causes(error):
        if isinstance(cause, HfHubHTTPError) and cause.response.status_code == 429:
            headers = cause.response.headers
            # Either "Retry-After: 55", or "RateLimit: "api";r=0;t=55" of the IETF's draft.
            texts = [
                headers.get("Retry-After", ""),
                headers.get("RateLimit", "").partition("t=")[2],
            ]
            seconds = next((text for text in map(str.strip, texts) if text.isdigit()), "")
            return max(int(seconds), 1) if seconds else 1
    return None


def _reason(error: BaseException) -> str:
    """Why the Hub does not give something, in one line with what can be done about it."""
    if _is_gated(error):
        return GATED
    seconds = _pause(error)
    if seconds is not None:
        token = "" if os.environ.get("HF_TOKEN") else "; a token in HF_TOKEN raises the limit"
        return f"it limits requests, and asks to wait {seconds} s more{token}"
    return (str(error) or type(error).__name__).splitlines()[0]


def _is_gated(error: BaseException) -> bool:
    return any(isinstance(cause, GatedRepoError) for cause in _causes(error))


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what it came of; the client wraps the Hub's answers."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
