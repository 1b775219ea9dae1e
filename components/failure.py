"""A stage that has failed for a reason that one line says. Bad input is a ValueError instead."""

import errno
import re

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
FULL_TEXTS = ("No space left on device", "File too large", "Disk quota exceeded", "os error 28")
SYSTEM = re.compile(r"\(os error \d+\)")  # what libraries in Rust say, whose exceptions are bare


class Failed(Exception):
    """The command line prints the message, which says what to try, and ends with exit code 1."""


def is_full(error: Exception) -> bool:
    """Whether a disk took no more."""
    number = error.errno if isinstance(error, OSError) else None
    return number in FULL or any(text in str(error) for text in FULL_TEXTS)


def is_of_the_system(error: Exception) -> bool:
    """Whether the operating system refused something, rather than this program being wrong."""
    return isinstance(error, OSError) or is_full(error) or bool(SYSTEM.search(str(error)))


def explain(error: Exception) -> str:
    """What the operating system refused, the path first where there is one."""
    if not isinstance(error, OSError) or error.strerror is None:
        return str(error) or type(error).__name__
    names = [str(name) for name in (error.filename, error.filename2) if name is not None]
    return ": ".join([*[" and ".join(names)] * bool(names), error.strerror])
