"""Failures of a stage that one line explains, without a traceback. Bad input is a ValueError."""

import errno
import re

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
FULL_TEXTS = ("No space left on device", "File too large", "Disk quota exceeded", "os error 28")
SYSTEM = re.compile(r"\(os error \d+\)")  # libraries written in Rust raise plain exceptions


class Failed(Exception):
    """Ends a stage with exit code 1; the message says what to try."""


def is_full(error: Exception) -> bool:
    """Whether the disk is full, or refuses to take more."""
    number = error.errno if isinstance(error, OSError) else None
    return number in FULL or any(text in str(error) for text in FULL_TEXTS)


def is_of_the_system(error: Exception) -> bool:
    """Whether the operating system refused something; else this program is wrong."""
    return isinstance(error, OSError) or is_full(error) or bool(SYSTEM.search(str(error)))


def explain(error: Exception) -> str:
    """One line for an error, with the path first if the operating system named one."""
    if not isinstance(error, OSError) or error.strerror is None:
        return str(error) or type(error).__name__
    names = [str(name) for name in (error.filename, error.filename2) if name is not None]
    return ": ".join([*[" and ".join(names)] * bool(names), error.strerror])
