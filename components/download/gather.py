"""The rows of each part of a dataset: made here, from a dataset's files, or from sources.

Rows are streamed and drops are counted. The stage counts tokens and writes the rows.
"""

import contextlib
import dataclasses
import random
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path

from components.data import arithmetic, catalogue, puzzles, roles, sources
from components.data import dataset as data
from components.data.config import Entry, Source
from components.data.conversations import READS, Unfit, conversation, preference, problem
from components.data.datacard import Card
from components.data.jsonlines import Row
from components.data.sources import Files
from components.download.config import DownloadConfig
from components.storage import fetch
from components.storage.hub import is_on_hub
from model.options import check

Stream = Callable[[Card], Iterator[Row]]
"""Starts a part's rows anew, and counts on the card what it drops."""
NO_NAMES: Mapping[str, str] = {}
Entries = Mapping[Source, Entry]
NO_ENTRIES: Entries = {}


def parts(config: DownloadConfig) -> dict[str, Stream]:
    """The stream of each part of the dataset.

    Raises ValueError or FileNotFoundError for a file that is missing: before a model is fetched.
    """
    by_part = {
        part: catalogue.resolve_all(part, getattr(config, part), config.catalogue)
        for part in data.COLUMNS
        if getattr(config, part)
    }
    streams: dict[str, Stream] = {}
    if config.dataset is not None:
        streams = _dataset_streams(config, [part for part in data.COLUMNS if part not in by_part])
    elif not by_part:
        check("dataset", None, config.made is not None, 'a dataset, sources, or made="sums"')
        return {part: _list_stream(rows) for part, rows in _make(config).items()}
    for part, locations in by_part.items():
        streams[part] = _source_stream(part, locations, config)
    return {part: streams[part] for part in data.COLUMNS if part in streams}


def held_out(config: DownloadConfig) -> Stream:
    """The stream of further tests, which no part of the dataset holds. Raises as `parts` does."""
    own = config.catalogue
    locations = catalogue.resolve_all("test", config.held_out, own, "held_out")
    return _source_stream("test", locations, config) if locations else _list_stream([])


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


def _source_stream(part: str, locations: tuple[Source, ...], config: DownloadConfig) -> Stream:
    # Lists the files and reads a row of each source now, so that a bad location, or a column that
    # is gone, is refused before a model is fetched.
    named = [source for source in locations if source.name is not None]
    entries = {source: catalogue.find(str(source.name), config.catalogue) for source in named}
    listings = [_files(part, source, entries.get(source), config.seed) for source in locations]
    for files in listings:
        _check_columns(files, entries)
    notes = [files.note for files in listings if files.note]
    notes += [f"{source.label}: {_terms(entry)}" for source, entry in entries.items()]
    for note in notes:
        print(f"download: {part}: {note}", flush=True)

    def stream(card: Card) -> Iterator[Row]:
        card.notes += notes
        return _usable_rows(part, listings, config.seed, card, entries=entries)

    return stream


def _files(part: str, source: Source, entry: Entry | None, seed: int) -> Files:
    """The files of a source; the rows of puzzles are made as they are read."""
    if source.location is not None:
        is_cut = entry is not None and entry.pieces
        pattern = entry and catalogue.files_of_copy(source, entry, part)
        if pattern:
            # Of a copy of the whole repository the split alone: its tests are not trained on.
            with contextlib.suppress(FileNotFoundError):
                copy = sources.files(dataclasses.replace(source, location=pattern), is_cut=is_cut)
                return dataclasses.replace(copy, source=source)
        return sources.files(source, is_cut=is_cut)
    assert entry is not None and entry.made is not None and source.split is not None
    kind, split = entry.made, source.split
    return Files(source, {}, {}, made=lambda: puzzles.split(kind, split, seed))


def _check_columns(files: Files, entries: Entries) -> None:
    """Raises ValueError if the first row of a named data set lacks a column that is read.

    Of a Hub's files without a name a row is read too, since a gated repository can be listed.
    """
    entry = entries.get(files.source)
    if entry is None:
        if is_on_hub(files.source.location or ""):
            next(sources.rows(files, ()), None)
        return
    if files.made is not None:
        return
    wanted = roles.columns(entry, files.source.keep)
    for file, _, row in sources.rows(files, wanted):
        if isinstance(row, str):
            continue  # unusable, and counted later
        missing = ", ".join(sorted(wanted - row.keys()))
        if missing:
            raise ValueError(
                f"{file}: has no column {missing}, which the catalogue's {entry.name} reads; pin a "
                "revision that has it, or describe the data set in download.catalogue"
            )
        return


def _terms(entry: Entry) -> str:
    """The licence of a data set, and its page."""
    return ", ".join(part for part in (f"licence {entry.licence}", entry.link) if part)


def _usable_rows(
    part: str,
    files: Sequence[Files],
    seed: int,
    card: Card,
    names: Mapping[str, str] = NO_NAMES,
    entries: Entries = NO_ENTRIES,
) -> Iterator[Row]:
    """The rows in the form that the part's stage reads; unusable rows are counted by reason.

    `names` are the original names of files that are local copies, `entries` describe the data sets
    of sources with a name.
    """

    def columns(source: Source) -> Collection[str]:
        if source in entries:
            return roles.columns(entries[source], source.keep)
        return READS.get(part, {source.column})

    for source, file, number, row in sources.interleave(files, columns, seed=seed):
        card.source = source.label
        card.sources[source.label] += 1
        card.place = f"{names.get(file, file)}:{number}"
        try:
            yield from _usable(part, source, row, entries.get(source))
        except Unfit as reason:
            card.drop(str(reason))


def _usable(part: str, source: Source, row: Row | str, entry: Entry | None) -> list[Row]:
    """The rows of one row of a source: several where a long document is cut."""
    if isinstance(row, str):
        raise Unfit(row)
    try:
        if entry is None or (entry.made and source.location is None):
            return [_convert(part, source, row)]
        if part == "pretrain":
            return [{"text": text} for text in roles.documents(entry, row)]
        usual = roles.usual(entry, source.keep, row)
        if part == "preferences":
            return [preference(usual, with_turns=True)]
        return [_convert(part, source, usual)]
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
