"""Rows of JSONL, Parquet and text files, streamed: memory does not grow with the corpus.

A location is whatever `components.storage` finds and opens. In place of a row that no stage could
use comes the reason, in a word. What a row must hold is not known here.
"""

import gzip
import io
import json
import random
import zlib
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any, BinaryIO

import pyarrow
import pyarrow.parquet

from components import storage
from components.download.config import Source

FORMATS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
    ".txt": "text",
    ".md": "text",
}
COMPRESSED = (".gz", ".zst")
LONGEST = 1 << 20  # bytes of a row; the memory of a run is a small multiple of it
PIECE = 1 << 20  # bytes of a text file that are one document at most
Row = dict[str, Any]


def files(source: Source) -> list[tuple[str, str]]:
    """The files of a source, in the order of their names, and the kind of each.

    Raises ValueError or FileNotFoundError naming what is not there or of an unknown kind.
    """
    found = storage.find(source.location)
    return [(file, _format(file) if source.format == "auto" else source.format) for file in found]


def rows(source: Source) -> Iterator[Row | str]:
    """Every row of a source, or the reason for which it is none, file after file.

    Raises ValueError naming the file, and the line where there is one, of what cannot be read.
    """
    for file, kind in files(source):
        with _opened(file) as stream:
            try:
                yield from READERS[kind](file, stream, source.column)
            except (EOFError, zlib.error, gzip.BadGzipFile, pyarrow.ArrowException) as error:
                raise ValueError(f"{file}: damaged or not {kind}: {error}") from error
            except OSError as error:
                if error.errno is not None:
                    raise
                raise ValueError(f"{file}: damaged or not {kind}: {error}") from error


def interleaved(sources: Sequence[Source], *, seed: int) -> Iterator[tuple[Source, Row | str]]:
    """Rows of several sources, each next one drawn by weight; an exhausted source drops out."""
    rng = random.Random(seed)
    waiting = [(source, rows(source)) for source in sources]
    while waiting:
        weights = [source.weight for source, _ in waiting]
        (place,) = rng.choices(range(len(waiting)), weights) if len(waiting) > 1 else (0,)
        source, stream = waiting[place]
        row = next(stream, None)
        if row is None:
            del waiting[place]
        else:
            yield source, row


def _format(file: str) -> str:
    suffixes = [suffix for suffix in PurePosixPath(file).suffixes if suffix not in COMPRESSED]
    kind = FORMATS.get(suffixes[-1]) if suffixes else None
    if kind is None:
        known = ", ".join(FORMATS)
        raise ValueError(f"{file}: unknown kind of file, allowed: {known} (.gz, .zst), or a format")
    return kind


def _opened(file: str) -> BinaryIO:
    stream = storage.open_file(file)
    if file.endswith(".gz"):
        return io.BufferedReader(gzip.GzipFile(fileobj=stream), 1 << 20)  # type: ignore[arg-type]
    if file.endswith(".zst"):
        inner = pyarrow.CompressedInputStream(pyarrow.PythonFile(stream, mode="r"), "zstd")
        return io.BufferedReader(_Inflated(inner), 1 << 20)
    return stream


class _Inflated(io.RawIOBase):
    """Arrow's decompressed stream with the interface of Python's own."""

    def __init__(self, stream: pyarrow.NativeFile) -> None:
        self.stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        content = self.stream.read(len(buffer))
        buffer[: len(content)] = content
        return len(content)


def _jsonl(file: str, stream: BinaryIO, column: str) -> Iterator[Row | str]:
    for number, line in enumerate(_lines(stream), 1):
        if len(line) > LONGEST:
            yield "too_large"
        elif line.strip():
            row = _object(f"{file}:{number}", line)
            yield row if _is_unicode(line, row) else "unpaired_surrogate"


def _object(place: str, line: bytes) -> Row:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{place}: not JSON: {error}") from None
    if not isinstance(row, dict):
        raise ValueError(f"{place}: not a JSON object")
    return row


def _is_unicode(line: bytes, row: Row) -> bool:
    """Whether no half of a surrogate pair stands alone: JSON can spell it, UTF-8 cannot."""
    if b"\\u" not in line and b"\xed" not in line:
        return True
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _lines(stream: BinaryIO) -> Iterator[bytes]:
    """Lines; of one that is too long only the first part is kept."""
    while line := stream.readline(LONGEST + 1):
        rest = line
        while len(rest) > LONGEST and not rest.endswith(b"\n"):
            rest = stream.readline(LONGEST + 1)
        yield line


def _parquet(file: str, stream: BinaryIO, column: str) -> Iterator[Row | str]:
    table = pyarrow.parquet.ParquetFile(stream, pre_buffer=False, buffer_size=1 << 20)
    for batch in table.iter_batches(batch_size=16):
        if batch.nbytes <= LONGEST:  # nearly always; row by row takes three times as long
            yield from batch.to_pylist()
            continue
        for row in (batch.slice(place, 1) for place in range(batch.num_rows)):
            yield "too_large" if row.nbytes > LONGEST else row.to_pylist()[0]


def _text(file: str, stream: BinaryIO, column: str) -> Iterator[Row]:
    while piece := stream.read(PIECE):
        if len(piece) == PIECE:
            piece += stream.readline(LONGEST)
        yield {column: piece.decode(errors="replace")}


READERS = {"jsonl": _jsonl, "parquet": _parquet, "text": _text}
