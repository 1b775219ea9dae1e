"""JSON lines read with care: one object a line, in UTF-8, of bounded length.

A line ends at \\n alone: U+2028, U+0085 and a form feed may be part of a text. Byte order marks and
blank lines are skipped. A line without a usable row is reported and reading goes on. Whether the
fields of a row are right is for the reader of the rows to check.
"""

import json
import re
from collections.abc import Container, Iterator
from typing import Any, BinaryIO

LONGEST = 16 << 20  # bytes of a line; a longer one is skipped
PIECE = 1 << 20  # bytes of a long line that are skipped at a time
MARK = b"\xef\xbb\xbf"
HALF = re.compile(rb"\\u[dD][89a-fA-F]")  # looks like a surrogate; `_is_unicode` makes sure
Row = dict[str, Any]


class Unusable(ValueError):
    """A line that holds no row: `reason` is the word under which it is counted."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


def rows(
    stream: BinaryIO, *, longest: int = LONGEST, columns: Container[str] | None = None
) -> Iterator[tuple[int, Row | Unusable]]:
    """The number, from 1, of every line that is not blank, with its row or its fault.

    With `columns` all other columns are left out of a row, and may hold anything.
    """
    for number, line in enumerate(_lines(stream, longest), 1):
        if len(line) > longest:
            yield number, Unusable("too_large", f"a line of more than {longest:,} bytes")
            continue
        if line := line.removeprefix(MARK).strip():
            try:
                yield number, _row(line, columns)
            except Unusable as error:
                yield number, error


def _lines(stream: BinaryIO, longest: int) -> Iterator[bytes]:
    """The lines; a line that is too long is cut to `longest` + 1 bytes."""
    while line := stream.readline(longest + 1):
        rest = line
        while len(line) > longest and rest and not rest.endswith(b"\n"):
            rest = stream.readline(PIECE)
        yield line


def _row(line: bytes, columns: Container[str] | None) -> Row:
    try:
        row = DECODER.decode(_text(line))
    except json.JSONDecodeError as error:
        raise Unusable("not_json", f"not JSON: {error.msg} (column {error.colno})") from None
    except RecursionError:
        raise Unusable("too_deep", "not JSON that can be read: nested too deeply") from None
    except Unusable:
        raise
    except ValueError as error:  # Python limits the digits of an integer
        raise Unusable("number_too_long", f"not JSON that can be read: {error}") from None
    if not isinstance(row, dict):
        raise Unusable("not_an_object", "not a JSON object")
    if columns is not None:
        row = {name: value for name, value in row.items() if name in columns}
    if HALF.search(line) and not _is_unicode(row):
        raise Unusable("unpaired_surrogate", "half of a surrogate pair, which is no character")
    return row


def _text(line: bytes) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        wrong = f"not UTF-8: byte 0x{line[error.start]:02x} at {error.start}"
        is_half = line[error.start] == 0xED and line[error.start + 1 : error.start + 2] > b"\x9f"
        raise Unusable("unpaired_surrogate" if is_half else "not_utf8", wrong) from None


def _is_unicode(row: Row) -> bool:
    """Whether no surrogate is unpaired: JSON can spell one, UTF-8 cannot."""
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    except RecursionError:
        raise Unusable("too_deep", "not JSON that can be read: nested too deeply") from None
    return True


def _object(pairs: list[tuple[str, Any]]) -> Row:
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise Unusable("duplicate_key", f"two values for {twice[:100]!r}")
    return row


DECODER = json.JSONDecoder(object_pairs_hook=_object)
