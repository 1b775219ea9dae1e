"""Errors of locations that cannot be read or written."""

from pathlib import Path

from components.failure import Failed

Location = str | Path


class StorageError(ValueError):
    """A location that cannot be read or written: one line that names it and the reason."""


class AlreadyThere(StorageError, FileExistsError):
    """Something complete is at a location that should be new."""


class Refused(StorageError):
    """The server does not allow it: a right is missing, or a key, region or clock is wrong."""


class Unavailable(Failed, StorageError):
    """A server that fails for longer than it was waited for: no input is bad, exit code 1."""


class Damaged(Unavailable):
    """Content that stays wrong however often it is asked for."""


class Spoilt(Exception):
    """An answer that is not of the object that was asked for; another try may bring it whole."""


class Changed(Spoilt):
    """Content that is not, or no longer, the object's; only the whole object can be tried again."""
