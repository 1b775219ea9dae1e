"""The rows of each part of a dataset: made, ready-made, or from sources; streamed, drops counted.

How a row is written to the artifact, and what it weighs in tokens, is the stage's.
"""

import random
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from components import dataset as data
from components import sources
from components.conversations import Unfit, conversation, preference, problem
from components.datacard import Card
from components.download import arithmetic
from components.download.config import DownloadConfig, Source
from components.storage import fetch

Row = dict[str, Any]
Rows = Callable[[Card], Iterator[Row]]


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
    problems = arithmetic.problems(seed=config.seed)
    rng.shuffle(problems)
    test, train = problems[: config.test_problems], problems[config.test_problems :]
    return {
        "pretrain": [{"text": arithmetic.document(problem)} for problem in train],
        "sft": [arithmetic.dialogue(problem) for problem in train],
        "preferences": [arithmetic.preference(problem, rng) for problem in train],
        "problems": [arithmetic.verifiable(problem) for problem in train],
        "test": [arithmetic.verifiable(problem) for problem in test],
    }


def _ready(config: DownloadConfig, wanted: list[str]) -> dict[str, Rows]:
    assert config.dataset is not None
    files = [f"{part}.jsonl" for part in wanted]
    folder = fetch(config.dataset, config.dataset_revision, kind="dataset", patterns=files)
    source = Source(location=config.dataset)

    def of(part: str) -> Rows:
        next(data.stream(folder, part))  # what is not there is refused before a model is fetched
        return lambda card: _fitting(
            part, ((source, row) for row in data.stream(folder, part)), card
        )

    return {part: of(part) for part in wanted}


def _from_sources(part: str, named: tuple[Source, ...], seed: int) -> Rows:
    for source in named:
        sources.files(source)  # a bad location is refused before a model is fetched
    return lambda card: _fitting(part, sources.interleaved(named, seed=seed), card)


def _fitting(part: str, rows: Iterable[tuple[Source, Row | str]], card: Card) -> Iterator[Row]:
    """The rows in the form that the part's stage reads; the others are counted by their reason."""
    for source, row in rows:
        card.sources[source.location] += 1
        try:
            yield _fit(part, source, row)
        except Unfit as reason:
            card.dropped[str(reason)] += 1


def _fit(part: str, source: Source, row: Row | str) -> Row:
    if isinstance(row, str):
        raise Unfit(row)
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
