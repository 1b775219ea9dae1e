"""Failures of a stage that one line explains, without a traceback. Bad input is a ValueError."""

import errno
import html
import json
import os
import re
from collections.abc import Iterator

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
FULL_TEXTS = ("No space left on device", "File too large", "Disk quota exceeded", "os error 28")
SYSTEM = re.compile(r"\(os error \d+\)")  # libraries written in Rust raise plain exceptions

LONGEST = 4000  # characters of a line
# Variables of the environment whose values are in no line, wherever the text of it comes from: a
# server may send back what it was sent.
SECRETS = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD|PASSWD)$", re.IGNORECASE)
SHORTEST_SECRET = 4
USER = re.compile(r"(\w://)[^/\s'\"]+@")
# A header's value has more than small letters; "Basic authentication" is a text.
HEADER = re.compile(r"\b(Basic|Bearer) +(?=\S*[\dA-Z=])[\w.~+/=-]{8,}")
QUERY = re.compile(
    r"([?&][\w.-]*(?:key|token|secret|signature|credential|password|sig|auth|pwd|pass)=)[^&\s'\"]+",
    re.IGNORECASE,
)


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


def as_line(text: str) -> str:
    """A text from anywhere as one line for a terminal or a log, without secrets.

    Signs that cannot be printed, which could move a terminal's cursor, become question marks.
    """
    line = "".join(sign if sign.isprintable() else "?" for sign in " ".join(redacted(text).split()))
    return line if len(line) <= LONGEST else f"{line[:LONGEST]}..."


def redacted(text: str) -> str:
    """The text without the secrets of the environment, and those of URLs and of headers."""
    values = {value.strip() for name, value in os.environ.items() if SECRETS.search(name)}
    spellings = {
        each for value in values if len(value) >= SHORTEST_SECRET for each in _spell(value)
    }
    for value in sorted(spellings, key=len, reverse=True):
        text = text.replace(value, "...")
    return QUERY.sub(r"\1...", HEADER.sub(r"\1 ...", USER.sub(r"\1...@", text)))


def _spell(value: str) -> Iterator[str]:
    """A value as a text may hold it: plain, in one line, in a URL, in JSON, in Python, in HTML."""
    yield from (value, " ".join(value.split()))
    in_query, in_path = _percent_encoded(value), _percent_encoded(value, "/")
    yield from (in_query, in_path, in_query.replace("%20", "+"))
    yield from (json.dumps(value)[1:-1], repr(value)[1:-1], html.escape(value))


def _percent_encoded(value: str, plain: str = "") -> str:
    """As a URL spells it (RFC 3986, 2.1), with the signs of `plain` as they are."""
    kept = {*b"-._~", *plain.encode()}
    encoded = value.encode(errors="replace")
    return "".join(
        chr(n) if n in kept or (n < 128 and chr(n).isalnum()) else f"%{n:02X}" for n in encoded
    )
