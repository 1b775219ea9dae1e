"""Errors of locations that cannot be read or written."""

from pathlib import Path

Location = str | Path


class StorageError(ValueError):
    """A location that cannot be read or written: one line that names it and the reason."""


class AlreadyThere(StorageError, FileExistsError):
    """Something complete is at a location that should be new."""
