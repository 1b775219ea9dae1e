"""The report on a dataset: counts, lengths, drops with their reasons, and five samples.

A `Card` counts rows as they stream by, in constant memory; report.json and report.md show it.
"""

import dataclasses
import json
import random
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from components.drawing import escape_markdown

SAMPLES, SHOWN = 5, 1000  # how many samples, and how many characters of each
MATCHES = 20  # test problems in training data that are named


class Match(NamedTuple):
    """A test problem that stands in a training text."""

    source: str
    """Label of the test set."""
    row: int
    """Number of the problem, from 1 on: its line in test.jsonl if it is there."""
    words: str
    """The words that both hold, or the puzzle."""
    is_in_dataset: bool = True
    """Whether the problem is in test.jsonl; one that is held out beside it is not."""


@dataclasses.dataclass
class Card:
    """The figures of one part of a dataset."""

    documents: int = 0
    tokens: int = 0
    lengths: Counter[int] = dataclasses.field(default_factory=Counter)
    dropped: Counter[str] = dataclasses.field(default_factory=Counter)
    sources: Counter[str] = dataclasses.field(default_factory=Counter)
    samples: list[str] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)
    place: str = ""
    """File and line (in Parquet: row) of the current row."""
    first: dict[str, str] = dataclasses.field(default_factory=dict)
    """For each reason the place of the first row that was dropped for it."""
    source: str = ""
    """Label of the current row's source."""
    matches: list[dict[str, str]] = dataclasses.field(default_factory=list)
    """The first test problems that also stand in this part."""
    tests: dict[str, set[int]] = dataclasses.field(default_factory=dict)
    """Of each test set the rows that stand in this part."""

    def __post_init__(self) -> None:
        self.random = random.Random(0)

    def add(self, tokens: int, text: str) -> None:
        """Counts a document of `tokens` tokens; each is a sample with the same probability."""
        self.documents += 1
        self.tokens += tokens
        self.lengths[max(tokens, 1).bit_length() - 1] += 1
        place = self.documents - 1 if self.documents <= SAMPLES else None
        if place is None and (drawn := self.random.randrange(self.documents)) < SAMPLES:
            place = drawn
        if place is not None:
            more = len(text) - SHOWN
            shown = text[:SHOWN] + (f" ... ({more} more characters)" if more > 0 else "")
            self.samples[place : place + 1] = [shown]

    def drop(self, reason: str, place: str | None = None) -> None:
        """Counts a row as dropped, and remembers the first place of its reason."""
        self.dropped[reason] += 1
        self.first.setdefault(reason, self.place if place is None else place)

    def match(self, match: Match) -> None:
        """Notes a test problem that stands in the current row."""
        self.tests.setdefault(match.source, set()).add(match.row)
        if len(self.matches) < MATCHES:
            line = f", test.jsonl:{match.row}" if match.is_in_dataset else ""
            test = match.source + line
            self.matches.append({"test": test, "at": self.place, "words": match.words[:SHOWN]})

    @property
    def in_training(self) -> dict[str, int]:
        """How many problems of each test set stand in this part."""
        return {source: len(rows) for source, rows in sorted(self.tests.items())}

    @property
    def losses(self) -> str:
        """The drops by reason, with the first place of each, for the end of a line."""
        places = ", ".join(f"{reason} at {place}" for reason, place in self.first.items() if place)
        return f"{dict(self.dropped)}" + (f", first {places}" if places else "")

    def as_json(self) -> dict[str, Any]:
        """Everything for report.json; the keys of `lengths` are ranges of tokens."""
        histogram = {
            f"{2**power}-{2 ** (power + 1) - 1}": self.lengths[power]
            for power in sorted(self.lengths)
        }
        return {
            "documents": self.documents,
            "tokens": self.tokens,
            "lengths": histogram,
            "dropped": dict(sorted(self.dropped.items())),
            "first_dropped": dict(sorted(self.first.items())),
            "sources": dict(self.sources),
            "notes": self.notes,
            "test_problems": self.in_training,
            "test_matches": self.matches,
            "samples": self.samples,
        }


def write(directory: Path, cards: dict[str, Card]) -> None:
    """Writes report.json and report.md."""
    report = {part: card.as_json() for part, card in cards.items()}
    content = json.dumps(report, indent=1, ensure_ascii=False)
    (directory / "report.json").write_text(content, encoding="utf-8")
    sections = [_section(part, facts) for part, facts in report.items()]
    page = "# Dataset\n\n" + "\n".join(sections)
    (directory / "report.md").write_text(page, encoding="utf-8")


def summary(cards: dict[str, Card]) -> dict[str, Any]:
    """The counts for the artifact's record.

    `part_tokens`, because `tokens` in a record are the tokens that a stage trained on.
    """
    return {
        **{part: card.documents for part, card in cards.items()},
        "part_tokens": {part: card.tokens for part, card in cards.items()},
        "dropped": {part: dict(card.dropped) for part, card in cards.items() if card.dropped},
        "test_problems": {
            part: card.in_training for part, card in cards.items() if card.in_training
        },
    }


def _section(part: str, facts: dict[str, Any]) -> str:
    total = facts["documents"] + sum(facts["dropped"].values())
    lines = [f"## {part}", ""]
    lines.append(f"{facts['documents']:,} of {total:,} kept, {facts['tokens']:,} tokens.")
    lines += [*map(escape_markdown, facts["notes"]), "", "| tokens | documents |", "|---|---|"]
    lines += [f"| {bucket} | {count:,} |" for bucket, count in facts["lengths"].items()]
    tables = (("dropped because", "dropped"), ("source", "sources"))
    for title, counts in (*tables, ("test set of which problems stand here", "test_problems")):
        if facts[counts]:
            lines += ["", f"| {title} | rows |", "|---|---|"]
            lines += [_row(name, f"{count:,}") for name, count in facts[counts].items()]
    if facts["first_dropped"]:
        lines += ["", "| dropped because | first at |", "|---|---|"]
        lines += [_row(name, place) for name, place in facts["first_dropped"].items()]
    if facts["test_matches"]:
        lines += ["", "| test problem | stands at | by the words |", "|---|---|---|"]
        lines += [_row(*match.values()) for match in facts["test_matches"]]
    for number, sample in enumerate(facts["samples"], 1):
        fence = "`" * 3
        while fence in sample:
            fence += "`"
        lines += ["", f"Sample {number}:", "", fence, sample, fence]
    return "\n".join(lines) + "\n"


def _row(*cells: str) -> str:
    """A row of a table. Files and data sets have the names that their owners gave them."""
    return f"| {' | '.join(map(escape_markdown, cells))} |"
