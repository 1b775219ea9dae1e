"""Tokenised documents in memory-mapped shards: written once, read at random.

    tokens-00000.bin ...  uint32, documents one after another, each closed by EOS
    lengths.bin           uint32, tokens of each document
    manifest.json         shards, totals and the tokenizer's fingerprint; written last

No document straddles two shards. `components.data.corpus` decides which documents are written.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from transformers import PreTrainedTokenizerBase

from components import atomic, names, records
from model.safetensors_files import read_json
from model.tokenizer import encode

MANIFEST, LENGTHS = "manifest.json", "lengths.bin"
FORMAT = 1
SHARD = 64 << 20  # tokens of a shard, 256 MiB
BATCH = 128 << 10  # characters tokenised at once; the library needs 100 bytes for each
DTYPE = np.dtype("<u4")
MOST = 2**40  # documents or tokens that a manifest may speak of


def fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """The sha256 of a tokenizer's vocabulary: the same where every token has the same id."""
    vocabulary = json.dumps(tokenizer.get_vocab(), sort_keys=True)
    return hashlib.sha256(vocabulary.encode()).hexdigest()


class Document(NamedTuple):
    """A text, with the file and line where it stands."""

    text: str
    place: str = ""


class _Piece(NamedTuple):
    text: str
    document: Document
    is_last: bool


def tokenize(
    documents: Iterable[Document], tokenizer: PreTrainedTokenizerBase
) -> Iterator[tuple[Document, np.ndarray]]:
    """Each document, in order, with its token ids, closed by EOS.

    A special token that is spelled in a text is tokenised as plain text. A long text is tokenised
    in pieces that end with a line, so that memory does not grow with it.
    """
    parts: list[np.ndarray] = []
    end = np.array([tokenizer.eos_token_id], DTYPE)
    for batch in _batches(documents):
        encoded = encode(tokenizer, [piece.text for piece in batch])
        for piece, ids in zip(batch, encoded, strict=True):
            parts.append(np.array(ids, DTYPE))
            if piece.is_last:
                yield piece.document, np.concatenate([*parts, end])
                parts = []


def _batches(documents: Iterable[Document]) -> Iterator[list[_Piece]]:
    """Pieces of about `BATCH` characters in total."""
    batch: list[_Piece] = []
    size = 0
    for document in documents:
        for piece in _pieces(document):
            batch.append(piece)
            size += len(piece.text)
            if size >= BATCH:
                yield batch
                batch, size = [], 0
    if batch:
        yield batch


def _pieces(document: Document) -> Iterator[_Piece]:
    """An empty text is one empty piece: its document has an EOS."""
    text, start = document.text, 0
    while True:
        stop = _cut(text, start)
        yield _Piece(text[start:stop], document, stop == len(text))
        if stop == len(text):
            return
        start = stop


def _cut(text: str, start: int) -> int:
    """Where a piece ends: after the last line that fits, else the last word, else at `BATCH`."""
    stop = start + BATCH
    if stop >= len(text):
        return len(text)
    for sign in ("\n", " "):
        if (place := text.rfind(sign, start + 1, stop)) > start:
            return place + (sign == "\n")
    return stop


class ShardWriter:
    """Appends documents; `close` writes the manifest."""

    def __init__(self, directory: Path, tokenizer: PreTrainedTokenizerBase) -> None:
        directory.mkdir(parents=True)
        self.directory, self.tokenizer = directory, fingerprint(tokenizer)
        self.shards: list[dict[str, Any]] = []
        self.lengths = (directory / LENGTHS).open("wb")
        self.stream: BinaryIO | None = None

    def add(self, ids: np.ndarray) -> None:
        """Appends one document."""
        if self.stream is None or self.shards[-1]["tokens"] + len(ids) > SHARD:
            if self.stream:
                self.stream.close()
            name = f"tokens-{len(self.shards):05}.bin"
            self.stream = (self.directory / name).open("wb")
            self.shards.append({"file": name, "documents": 0, "tokens": 0})
        self.stream.write(ids.astype(DTYPE).tobytes())
        self.lengths.write(np.array([len(ids)], DTYPE).tobytes())
        self.shards[-1]["documents"] += 1
        self.shards[-1]["tokens"] += len(ids)

    def close(self) -> None:
        """Closes the files and writes the manifest."""
        if self.stream:
            self.stream.close()
        self.lengths.close()
        manifest = {"format": FORMAT, "dtype": "uint32", "tokenizer": self.tokenizer}
        for name in ("documents", "tokens"):
            manifest[name] = sum(shard[name] for shard in self.shards)
        manifest["shards"] = self.shards
        atomic.write_json(self.directory / MANIFEST, manifest)


def _read_manifest(file: Path) -> dict[str, Any]:
    """The manifest. Raises ValueError naming a field that is missing or of another kind."""
    manifest = read_json(file)
    try:
        records.check_fields(manifest, {"tokenizer": str, "shards": list}, "")
        for number, shard in enumerate(manifest["shards"]):
            kinds = {"file": str, "documents": int, "tokens": int}
            records.check_fields(shard, kinds, f"shards.{number}.")
            names.check(shard["file"], f"shards.{number}")
            if not (0 <= shard["documents"] <= MOST and 0 < shard["tokens"] <= MOST):
                raise ValueError(f"shards.{number} has counts that no shard has")
    except ValueError as error:
        raise ValueError(f"{file}: not a manifest: {error}") from None
    return manifest


class Shards:
    """The documents that a ShardWriter wrote to a directory."""

    def __init__(self, directory: Path, tokenizer: PreTrainedTokenizerBase) -> None:
        """Raises ValueError if there are none, or if another tokenizer made them."""
        if not (directory / MANIFEST).exists():
            raise ValueError(f"{directory}: no {MANIFEST}; the dataset has no tokenised documents")
        manifest = _read_manifest(directory / MANIFEST)
        if manifest["tokenizer"] != fingerprint(tokenizer):
            raise ValueError(f"{directory}: tokenised with another tokenizer than the model's")
        self.lengths = np.fromfile(directory / LENGTHS, DTYPE).astype(np.int64)
        self.shards = [
            np.memmap(directory / shard["file"], DTYPE, "r") for shard in manifest["shards"]
        ]
        self.first = np.cumsum([0, *(shard["documents"] for shard in manifest["shards"])])
        self.starts = np.cumsum(self.lengths) - self.lengths
        shard_tokens = np.cumsum([0, *(shard["tokens"] for shard in manifest["shards"])])
        self.bases = shard_tokens[:-1]
        whole = len(self.lengths) == self.first[-1] and self.lengths.sum() == shard_tokens[-1]
        if not whole or [len(shard) for shard in self.shards] != np.diff(shard_tokens).tolist():
            raise ValueError(
                f"{directory}: its files do not hold the tokens that {MANIFEST} counts"
            )

    def __len__(self) -> int:
        return len(self.lengths)

    def tokens(self, document: int, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Token ids of a document, or a part of it."""
        shard = int(np.searchsorted(self.first, document, "right")) - 1
        offset = int(self.starts[document] - self.bases[shard])
        length = int(self.lengths[document])
        stop = length if stop is None else min(stop, length)
        return self.shards[shard][offset + start : offset + stop]
