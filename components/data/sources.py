"""Rows of JSONL, Parquet and text files, streamed: memory does not grow with the corpus.

`components.storage` finds and opens the files. An unusable row is replaced by one word, the
reason. `components.data.conversations` checks what rows hold.
"""

import codecs
import contextlib
import gzip
import io
import random
import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, BinaryIO

import pyarrow
import pyarrow.parquet

from components import storage
from components.data import jsonlines
from components.data.config import Source
from components.data.jsonlines import Row
from components.storage import finding

FORMATS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
    ".txt": "text",
    ".md": "text",
}
COMPRESSED = (".gz", ".zst")
# Files of a repository that are not data: papers, by the first word of their name, and facts.
PAPERS = {"readme", "license", "licence", "copying", "notice", "changelog", "citation", "authors"}
PAPERS |= {"contributing", "code_of_conduct", "security", "requirements"}
FACTS = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json")
LONGEST = 1 << 20  # bytes of a row; the stage's memory is a small multiple of it
LONGEST_CUT = 16 << 20  # bytes of a row whose text is cut into pieces: whole books
PIECE = 1 << 20  # bytes of the longest text file that is one document
DAMAGED = (EOFError, zlib.error, gzip.BadGzipFile, pyarrow.ArrowException, UnicodeDecodeError)
Numbered = Iterator[tuple[int, Row | str]]


@dataclass(frozen=True)
class Files:
    """The files of a source with the kind of each, and the files left out with their reasons."""

    source: Source
    kinds: dict[str, str]
    left_out: dict[str, str]
    made: Callable[[], Iterator[Row]] | None = None
    """Makes the rows of a source that has no files."""
    is_cut: bool = False
    """Whether long documents are cut into pieces, and so may be longer than other rows."""

    @property
    def note(self) -> str:
        """A line that names the files left out, or an empty text."""
        left_out = finding.describe(self.left_out)
        return left_out and f"{self.source.location}: files read: {len(self.kinds)}{left_out}"


def files(source: Source, *, is_cut: bool = False) -> Files:
    """The files of a source, in the order of their names.

    A file that the location names is taken whatever it is. Of a directory only data are taken: no
    cards, licences or scripts.

    Raises FileNotFoundError if there is no file, ValueError if none is of a known kind.
    """
    assert source.location is not None, "catalogue.resolve says where a named data set is"
    listing = storage.find(source.location)
    kinds, left_out = {}, dict(listing.left_out)
    for name, file in listing.files.items():
        kind = _kind(name) if source.format == "auto" else source.format
        reason = _beside(name, source.format) if listing.by == "folder" else ""
        if kind and not reason:
            kinds[file] = kind
        elif listing.by != "name":
            left_out[name] = reason or "unknown kind"
    if not kinds:
        raise ValueError(
            f"{source.location}: unknown kind of file, allowed: {', '.join(FORMATS)} (.gz, .zst), "
            f"or a format{finding.describe(left_out)}"
        )
    return Files(source, kinds, left_out, is_cut=is_cut)


def rows(files: Files, columns: Collection[str]) -> Iterator[tuple[str, int, Row | str]]:
    """File, line and row of every row of a source; for an unusable row its reason.

    Only `columns` are read; others may hold anything. A text file has the source's `column` alone.

    Raises ValueError naming a file that is damaged.
    """
    for number, made in enumerate(files.made() if files.made else (), 1):
        yield files.source.label, number, made
    longest = LONGEST_CUT if files.is_cut else LONGEST
    for file, kind in files.kinds.items():
        with _opened(file) as stream:
            try:
                for number, row in READERS[kind](stream, columns, files.source.column, longest):
                    yield file, number, row
            except DAMAGED as error:
                raise _damaged(file, kind, error) from error
            except OSError as error:
                if error.errno is not None:
                    raise
                raise _damaged(file, kind, error) from error


def interleave(
    sources: Sequence[Files], columns: Callable[[Source], Collection[str]], *, seed: int
) -> Iterator[tuple[Source, str, int, Row | str]]:
    """Rows of several sources: each row's source is drawn by weight until it is exhausted."""
    rng = random.Random(seed)
    streams = [(files.source, rows(files, columns(files.source))) for files in sources]
    while streams:
        weights = [source.weight for source, _ in streams]
        (place,) = rng.choices(range(len(streams)), weights) if len(streams) > 1 else (0,)
        source, stream = streams[place]
        row = next(stream, None)
        if row is None:
            del streams[place]
        else:
            yield source, *row


def _damaged(file: str, kind: str, error: Exception) -> ValueError:
    reason = (str(error) or type(error).__name__).splitlines()[0]
    return ValueError(f"{file}: damaged or not {kind}: {reason}")


def _kind(file: str) -> str | None:
    suffixes = [suffix.lower() for suffix in PurePosixPath(file).suffixes]
    known = [suffix for suffix in suffixes if suffix not in COMPRESSED]
    return FORMATS.get(known[-1]) if known else None


def _beside(name: str, format: str) -> str:
    """The reason to leave a file of a directory out (a card, a licence, a script), or empty."""
    file = PurePosixPath(name.lower())
    if file.suffix in (".md", ".py") and format != "text":
        return "not data"
    first = file.name.split(".")[0].split("-")[0]
    is_text = file.suffix in ("", ".md", ".txt", ".rst", ".cff")
    if (first in PAPERS and is_text) or file.name in FACTS:
        return "not data"
    kind = _kind(name)
    return f"{kind}, not {format}" if format != "auto" and kind not in (None, format) else ""


def _opened(file: str) -> BinaryIO:
    stream = storage.open_file(file)
    if file.lower().endswith(".gz"):
        return io.BufferedReader(gzip.GzipFile(fileobj=stream), 1 << 20)  # type: ignore[arg-type]
    if file.lower().endswith(".zst"):
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


def _jsonl(stream: BinaryIO, columns: Collection[str], column: str, longest: int) -> Numbered:
    for number, row in jsonlines.rows(stream, longest=longest, columns=columns):
        yield number, row.reason if isinstance(row, jsonlines.Unusable) else row


def _parquet(stream: BinaryIO, columns: Collection[str], column: str, longest: int) -> Numbered:
    table = pyarrow.parquet.ParquetFile(stream, pre_buffer=False, buffer_size=1 << 20)
    names, first = table.schema_arrow.names, 1
    is_twofold = any(names.count(name) > 1 for name in columns)
    for batch in table.iter_batches(batch_size=16, columns=list(columns)):
        plain = ["duplicate_key"] * len(batch) if is_twofold else _plain(batch, longest)
        yield from enumerate(plain, first)
        first += batch.num_rows


def _plain(batch: pyarrow.RecordBatch, longest: int) -> list[Row | str]:
    """The rows of a batch as Python objects; one by one if a row among them is unusable."""
    if batch.nbytes <= longest:  # the usual case; row by row takes three times as long
        with contextlib.suppress(ValueError, OverflowError):
            return batch.to_pylist()
    return [_plain_row(batch.slice(place, 1), longest) for place in range(batch.num_rows)]


def _plain_row(row: pyarrow.RecordBatch, longest: int) -> Row | str:
    if row.nbytes > longest:
        return "too_large"
    try:
        return row.to_pylist()[0]
    except UnicodeDecodeError:
        return "not_utf8"
    except (ValueError, OverflowError):  # Python's types cannot hold it, such as the year 20000
        return "unreadable_value"


def _text(stream: BinaryIO, columns: Collection[str], column: str, longest: int) -> Numbered:
    """One document for each piece; a character that straddles a cut goes to the next piece."""
    decoder, number, piece = codecs.getincrementaldecoder("utf-8-sig")(), 0, stream.read(PIECE)
    while piece:
        if len(piece) == PIECE:
            piece += stream.readline(LONGEST)
        number, following = number + 1, stream.read(PIECE)
        try:
            yield number, {column: decoder.decode(piece, final=not following)}
        except UnicodeDecodeError:
            decoder.reset()
            yield number, "not_utf8"
        piece = following


READERS = {"jsonl": _jsonl, "parquet": _parquet, "text": _text}
