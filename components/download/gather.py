"""The rows of each part of a dataset: made, ready-made, or from sources; streamed, drops counted.

How a row is written to the artifact, and what it weighs in tokens, is the stage's.
"""

import random
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from components.data import dataset as data
from components.data import sources
from components.data.config import Source
from components.data.conversations import READS, Unfit, conversation, preference, problem
from components.data.datacard import Card
from components.data.sources import Files
from components.download import arithmetic
from components.download.config import DownloadConfig
from components.storage import fetch

Row = dict[str, Any]
Rows = Callable[[Card], Iterator[Row]]
NO_NAMES: Mapping[str, str] = {}


def parts(config: DownloadConfig) -> dict[str, Rows]:
    """For each part of the dataset a function that streams its rows, and counts what it drops."""
    given = {part: getattr(config, part) for part in data.COLUMNS if getattr(config, part)}
    found: dict[str, Rows] = {}
    if config.dataset is not None:
        found = _ready(config, [part for part in data.COLUMNS if part not in given])
    elif not given:
        return {part: _as_they_are(rows) for part, rows in _made(config).items()}
    for part, named in given.items():
        found[part] = _from_sources(part, named, config.seed)
    return {part: found[part] for part in data.COLUMNS if part in found}


def _as_they_are(rows: list[Row]) -> Rows:
    return lambda card: iter(rows)


def _made(config: DownloadConfig) -> dict[str, list[Row]]:
    """Splits the sums into test and training problems."""
    rng = random.Random(config.seed)
    test, train = arithmetic.split(arithmetic.problems(), config.test_problems, rng)
    slips = [arithmetic.pupils_slip(problem, rng) for problem in train]
    return {
        "pretrain": [{"text": text} for text in arithmetic.documents(train, slips, rng)],
        "sft": [arithmetic.dialogue(*one) for one in zip(train, slips, strict=True)],
        "preferences": [arithmetic.preference(problem, rng) for problem in train],
        "problems": [arithmetic.verifiable(problem) for problem in train],
        "test": [arithmetic.verifiable(problem) for problem in test],
    }


def _ready(config: DownloadConfig, wanted: list[str]) -> dict[str, Rows]:
    assert config.dataset is not None
    names = [f"{part}.jsonl" for part in wanted]
    folder = fetch(config.dataset, config.dataset_revision, kind="dataset", patterns=names)
    for name in names:  # what is not there is refused before a model is fetched
        if not (folder / name).is_file():
            files = ", ".join(data.COLUMNS)
            raise ValueError(f"{config.dataset}/{name}: not there; a dataset has {files} (.jsonl)")
        if not (folder / name).stat().st_size:
            raise ValueError(f"{config.dataset}/{name}: empty")
    return {part: _of_ready(part, config.dataset, folder, config.seed) for part in wanted}


def _of_ready(part: str, dataset: str, folder: Path, seed: int) -> Rows:
    """The rows of a ready-made file, read as a source's; the card names them by the set."""
    file = str(folder / f"{part}.jsonl")
    found = Files(Source(location=dataset), {file: "jsonl"}, {})
    names = {file: f"{dataset.rstrip('/')}/{part}.jsonl"}
    return lambda card: _fitting(part, [found], seed, card, names)


def _from_sources(part: str, named: tuple[Source, ...], seed: int) -> Rows:
    # A bad location is refused before a model is fetched.
    found = [sources.files(source) for source in named]
    notes = [files.note for files in found if files.note]
    for note in notes:
        print(f"download: {part}: {note}", flush=True)

    def stream(card: Card) -> Iterator[Row]:
        card.notes += notes
        return _fitting(part, found, seed, card)

    return stream


def _fitting(
    part: str, found: Sequence[Files], seed: int, card: Card, names: Mapping[str, str] = NO_NAMES
) -> Iterator[Row]:
    """The rows in the form that the part's stage reads; the others are counted by their reason.

    `names` are what files are called that lie elsewhere than they came from.
    """

    def columns(source: Source) -> Collection[str]:
        return READS.get(part, {source.column})

    for source, file, number, row in sources.interleaved(found, columns, seed=seed):
        card.sources[source.location] += 1
        card.place = f"{names.get(file, file)}:{number}"
        try:
            fit = _fit(part, source, row)
        except Unfit as reason:
            card.drop(str(reason))
        else:
            yield fit


def _fit(part: str, source: Source, row: Row | str) -> Row:
    if isinstance(row, str):
        raise Unfit(row)
    try:
        return _formed(part, source, row)
    except RecursionError:
        raise Unfit("too_deep") from None


def _formed(part: str, source: Source, row: Row) -> Row:
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
