"""The rows of each part of a dataset: made here, from a dataset's files, or from sources.

Rows are streamed and drops are counted. The stage counts tokens and writes the rows.
"""

import random
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path

from components.data import arithmetic, sources
from components.data import dataset as data
from components.data.config import Source
from components.data.conversations import READS, Unfit, conversation, preference, problem
from components.data.datacard import Card
from components.data.jsonlines import Row
from components.data.sources import Files
from components.download.config import DownloadConfig
from components.storage import fetch

Stream = Callable[[Card], Iterator[Row]]
"""Starts a part's rows anew, and counts on the card what it drops."""
NO_NAMES: Mapping[str, str] = {}


def parts(config: DownloadConfig) -> dict[str, Stream]:
    """The stream of each part of the dataset.

    Raises ValueError or FileNotFoundError for a file that is missing: before a model is fetched.
    """
    by_part = {part: getattr(config, part) for part in data.COLUMNS if getattr(config, part)}
    streams: dict[str, Stream] = {}
    if config.dataset is not None:
        streams = _dataset_streams(config, [part for part in data.COLUMNS if part not in by_part])
    elif not by_part:
        return {part: _list_stream(rows) for part, rows in _make(config).items()}
    for part, locations in by_part.items():
        streams[part] = _source_stream(part, locations, config.seed)
    return {part: streams[part] for part in data.COLUMNS if part in streams}


def _list_stream(rows: list[Row]) -> Stream:
    return lambda card: iter(rows)


def _make(config: DownloadConfig) -> dict[str, list[Row]]:
    """The rows of every part, made of sums."""
    rng = random.Random(config.seed)
    test, train = arithmetic.split(arithmetic.sums(), config.test_problems, rng)
    slips = [arithmetic.pupils_slip(problem, rng) for problem in train]
    return {
        "pretrain": [{"text": text} for text in arithmetic.documents(train, slips, rng)],
        "sft": [arithmetic.dialogue(*pair) for pair in zip(train, slips, strict=True)],
        "preferences": [arithmetic.preference(problem, rng) for problem in train],
        "problems": [arithmetic.verifiable(problem) for problem in train],
        "test": [arithmetic.verifiable(problem) for problem in test],
    }


def _dataset_streams(config: DownloadConfig, parts: list[str]) -> dict[str, Stream]:
    assert config.dataset is not None
    names = [f"{part}.jsonl" for part in parts]
    folder = fetch(config.dataset, config.dataset_revision, kind="dataset", patterns=names)
    for name in names:  # a missing file is refused before a model is fetched
        if not (folder / name).is_file():
            files = ", ".join(data.COLUMNS)
            raise ValueError(f"{config.dataset}/{name}: not there; a dataset has {files} (.jsonl)")
        if not (folder / name).stat().st_size:
            raise ValueError(f"{config.dataset}/{name}: empty")
    return {part: _file_stream(part, config.dataset, folder, config.seed) for part in parts}


def _file_stream(part: str, dataset: str, folder: Path, seed: int) -> Stream:
    """The rows of a dataset's file; the card shows the dataset's name, not that of a local copy."""
    file = str(folder / f"{part}.jsonl")
    files = Files(Source(location=dataset), {file: "jsonl"}, {})
    names = {file: f"{dataset.rstrip('/')}/{part}.jsonl"}
    return lambda card: _usable_rows(part, [files], seed, card, names)


def _source_stream(part: str, locations: tuple[Source, ...], seed: int) -> Stream:
    # Lists the files now, so that a bad location is refused before a model is fetched.
    listings = [sources.files(source) for source in locations]
    notes = [files.note for files in listings if files.note]
    for note in notes:
        print(f"download: {part}: {note}", flush=True)

    def stream(card: Card) -> Iterator[Row]:
        card.notes += notes
        return _usable_rows(part, listings, seed, card)

    return stream


def _usable_rows(
    part: str, files: Sequence[Files], seed: int, card: Card, names: Mapping[str, str] = NO_NAMES
) -> Iterator[Row]:
    """The rows in the form that the part's stage reads; unusable rows are counted by reason.

    `names` are the original names of files that are local copies.
    """

    def columns(source: Source) -> Collection[str]:
        return READS.get(part, {source.column})

    for source, file, number, row in sources.interleave(files, columns, seed=seed):
        card.sources[source.label] += 1
        card.place = f"{names.get(file, file)}:{number}"
        try:
            usable = _usable(part, source, row)
        except Unfit as reason:
            card.drop(str(reason))
        else:
            yield usable


def _usable(part: str, source: Source, row: Row | str) -> Row:
    if isinstance(row, str):
        raise Unfit(row)
    try:
        return _convert(part, source, row)
    except RecursionError:
        raise Unfit("too_deep") from None


def _convert(part: str, source: Source, row: Row) -> Row:
    if part == "sft":
        return conversation(row)
    if part == "preferences":
        return preference(row)
    if part in ("problems", "test"):
        return problem(row, source.verifier)
    text = row.get(source.column)
    if not isinstance(text, str) or not text.strip():
        raise Unfit(f"no_{source.column}")
    return {"text": text}
