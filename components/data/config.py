"""Where rows come from, and which of the pretraining documents are taken.

`components.data.catalogue` names public data sets, each an `Entry`.
"""

import ast
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from components.rewards.config import Verifier
from model.options import Checked, check, check_text
from model.training.config import S3, SCHEME

HUB = re.compile(r"hf://[^/]+/[^/]+.*")
REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
COMMIT = re.compile(r"[0-9a-f]{40}")
CATALOGUE = "CATALOGUE"  # the variable of a Python file with entries
Pairs = tuple[tuple[str, str], ...]
ROLES = (
    *("text", "system", "messages", "prompt", "context", "thought", "answer"),
    *("chosen", "rejected"),
)


def check_source(name: str, location: str | None, *, hub: bool) -> None:
    """Raises ValueError for a location that cannot be read; `hub` says whether hf:// can be."""
    if location is None:
        return
    good = bool(location.strip())
    if SCHEME.match(location):
        on_hub = hub and HUB.fullmatch(location) is not None
        good = on_hub or S3.fullmatch(location) is not None
    elsewhere = "hf://datasets/OWNER/NAME/PATH" if hub else "OWNER/NAME on the Hub"
    check(name, location, good, f"a path, s3://BUCKET/KEY or {elsewhere}")


@dataclass(frozen=True, kw_only=True)
class Source(Checked):
    """Where rows of one kind come from, streamed."""

    name: str | None = None
    """A data set of the catalogue (components/data/entries.py, or `catalogue`), in place of a
    location. With a location, where a copy of that data set is; if it is a folder like the
    repository's, the split's files alone are read."""
    split: str | None = None
    """Split of the named data set; null takes its first for training, or in `test` the first that
    is for evaluation."""
    revision: str | None = None
    """Commit of the named data set's repository; null takes the catalogue's, or the newest."""
    keep: Pairs = ()
    """Rows of the named data set that are taken: pairs of a column and a regular expression that
    its whole text must match, such as ["level", "Level [3-5]"]. The rest is counted."""
    location: str | None = None
    """A file, a directory, or a pattern with *, ?, [ab] and ** (any folders): on a local path, at
    s3://BUCKET/KEY, or in a Hub repository at hf://datasets/OWNER/NAME@COMMIT/PATH (pin the commit,
    a branch moves). Hidden and empty files of a directory are left out, as are cards, licences,
    *.md, *.py and files of an unknown kind; a line of the log names them."""
    format: Literal["auto", "jsonl", "parquet", "text"] = "auto"
    """Format of the files; auto goes by their names, with or without .gz or .zst. A text file is a
    document; one of more than a MiB is cut at line ends into documents of about a MiB."""
    column: str = "text"
    """The column that holds the text of a pretraining document."""
    weight: float = 1.0
    """How often a row is drawn from this source, relative to the other sources of the part."""
    verifier: Verifier = "exact"
    """How answers are compared with a problem's, where its row does not name a verifier. A named
    data set has its own."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_text("name", self.name, "the name of a data set")
        for field in ("split", "revision"):
            value = getattr(self, field)
            check(field, value, value is None or self.name is not None, "null without a name")
            check_text(field, value, "null or a text")
        check("keep", self.keep, not self.keep or self.name is not None, "empty without a name")
        check_patterns("keep", self.keep)
        check_source("location", self.location, hub=True)
        check_text("column", self.column, "the name of a column")
        check("weight", self.weight, self.weight > 0, "above 0")
        if self.location is None and self.name is None:
            raise ValueError("location is missing, and so is the name of a data set")

    @property
    def label(self) -> str:
        """What reports call the source: its location, or its name with the split."""
        if self.name is None:
            return str(self.location)
        return self.name if self.split is None else f"{self.name}:{self.split}"


@dataclass(frozen=True, kw_only=True)
class Entry(Checked):
    """A data set by name: its files, what its columns mean, and on which terms it is to be had.

    A role is a column, a field within it (`reward.answer`, `attempts.0`), or a text with columns in
    braces ("{text} Test: {tests.0}"). A row is left out where a column in braces is empty, unless a
    ? follows the column's name ("{setup?}"). Only the columns of roles and of `keep` are read.
    """

    name: str
    """What sources call it."""
    kind: Literal["text", "conversations", "preferences", "problems"]
    """What its rows are: text is for pretrain, conversations for sft, preferences for preferences,
    and problems for problems and test."""
    repository: str | None = None
    """OWNER/NAME of the data set on the Hub. Null: the rows are made here, or the source's location
    says where a copy is."""
    elsewhere: str | None = None
    """How to get the rows of a data set that no repository holds; a source without a location is
    told so."""
    commit: str | None = None
    """Commit of the repository, 40 digits; null takes the newest."""
    splits: Pairs = ()
    """Pairs of a split and its files in the repository, a pattern."""
    held_out: tuple[str, ...] = ("test",)
    """Splits that are for evaluation only."""
    made: Literal["countdown", "sudoku"] | None = None
    """Puzzles that are made here (components/data/puzzles.py), in splits train and test."""
    text: str | None = None
    """Role: a document."""
    pieces: bool = False
    """Documents of more than a MiB are cut at line ends into documents of about a MiB."""
    system: str | None = None
    """Role: the system message."""
    messages: str | None = None
    """Role: the messages of a conversation."""
    prompt: str | None = None
    """Role: the question."""
    context: str | None = None
    """Role: what follows the question after a blank line, where there is any."""
    thought: str | None = None
    """Role: the thought before the answer. A row without a thought is left out."""
    answer: str | None = None
    """Role: the answer, or a problem's gold."""
    chosen: str | None = None
    """Role: the better answer of a pair."""
    rejected: str | None = None
    """Role: the worse answer of a pair."""
    form: Literal["text", "messages", "transcript"] = "text"
    """What prompt, chosen and rejected are. A transcript is one text of turns, each after "Human:"
    or "Assistant:" behind a blank line; it is cut at its last turn."""
    gold: Literal["whole", "hashes", "box"] = "whole"
    """Where in the answer the gold is: all of it, behind #### in the last line, or in the last
    \\boxed{}."""
    keep: Pairs = ()
    """Pairs of a column and a regular expression that the whole text of it must match in rows that
    are taken. Numbers of a list are joined by ", ", its texts by line ends."""
    verifier: Verifier = "exact"
    """How answers are compared with the gold."""
    licence: str = "unknown"
    """Licence as the data set's page names it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for field in ("name", "elsewhere", *ROLES, "licence"):
            check_text(field, getattr(self, field))
        for number, split in enumerate(self.held_out):
            check_text(f"held_out[{number}]", split)
        repository, commit = self.repository, self.commit
        is_named = repository is None or REPOSITORY.fullmatch(repository) is not None
        check("repository", repository, is_named, "null or OWNER/NAME")
        is_commit = commit is None or COMMIT.fullmatch(commit) is not None
        check("commit", commit, is_commit, "null or 40 digits of 0-9 and a-f")
        needs = repository is None or bool(self.splits)
        check("splits", self.splits, needs, "pairs of a split and its files")
        check_pairs("splits", self.splits)
        check_patterns("keep", self.keep)
        for role in self._needed():
            check(role, None, getattr(self, role) is not None, f"a column, for {self.kind}")

    @classmethod
    def completed(cls, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """With objects in place of pairs, as their author may write them."""
        pairs = {
            name: list(value.items())
            for name in ("splits", "keep")
            if (value := values.get(name)) and isinstance(value, Mapping)
        }
        return {**values, **pairs}

    def _needed(self) -> tuple[str, ...]:
        """The roles without which there are no rows of the kind."""
        if self.made is not None:
            return ()
        asked = ("messages",) if self.messages is not None else ("prompt", "answer")
        return {
            "text": ("text",),
            "conversations": asked,
            "preferences": ("chosen", "rejected"),
            "problems": ("prompt", "answer"),
        }[self.kind]

    @property
    def link(self) -> str:
        """The page of the data set, or an empty text."""
        return f"https://huggingface.co/datasets/{self.repository}" if self.repository else ""


def check_pairs(name: str, pairs: Pairs) -> None:
    """Raises ValueError for a pair with a blank text."""
    for number, pair in enumerate(pairs):
        for place, text in enumerate(pair):
            check_text(f"{name}[{number}][{place}]", text)


def check_patterns(name: str, pairs: Pairs) -> None:
    """Raises ValueError for a pair whose second text is no regular expression."""
    check_pairs(name, pairs)
    for number, (_, pattern) in enumerate(pairs):
        try:
            re.compile(pattern)
        except (re.error, RecursionError, OverflowError) as error:
            allowed = f"a regular expression: {error}"
            check(f"{name}[{number}][1]", pattern, False, allowed)


def read_catalogue(value: object) -> object:
    """Entries as a list, from a file or an object of entries by name; anything else unchanged.

    A file is JSON, or Python with `CATALOGUE = {...}`. Python is parsed and never run, so that a
    run form can name no code. Raises ValueError naming a file that holds no catalogue.
    """
    if isinstance(value, str):
        value = _catalogue_file(Path(value))
    if not isinstance(value, Mapping):
        return value
    return [
        {"name": name, **entry} if isinstance(entry, Mapping) else entry
        for name, entry in value.items()
    ]


def _catalogue_file(path: Path) -> object:
    allowed = f"a JSON file of entries by name, or a Python file with {CATALOGUE} = {{...}}"
    try:
        text = path.read_text(encoding="utf-8")
        return _literal(text) if path.suffix == ".py" else json.loads(text)
    except (OSError, ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"catalogue={str(path)!r}, allowed: {allowed}: {reason}") from None


def _literal(text: str) -> object:
    """The value of CATALOGUE, where it is written out; a name or a call in it is no literal."""
    for node in ast.parse(text).body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        if isinstance(node, ast.AnnAssign):
            targets = [node.target]
        if any(isinstance(target, ast.Name) and target.id == CATALOGUE for target in targets):
            assert isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None
            return ast.literal_eval(node.value)
    raise ValueError(f"it assigns no {CATALOGUE}")


@dataclass(frozen=True, kw_only=True)
class Sample(Checked):
    """Which documents of the pretraining sources are taken, by their length in tokens."""

    documents: int | None = None
    """Number of documents; reading stops there. Null takes the whole corpus."""
    min_tokens: int = 128
    """Shorter documents are dropped."""
    long_tokens: int = 8096
    """A document of this many tokens or more is long."""
    long_share: float = 0.9
    """Share of long documents among those taken; 0 takes documents of any length as they come."""
    quality: bool = True
    """Drop documents that break a rule of components/data/quality.py; drops are counted by rule."""

    def __post_init__(self) -> None:
        super().__post_init__()
        some = self.documents is None or self.documents >= 1
        check("sample.documents", self.documents, some, "1 or more")
        check("sample.min_tokens", self.min_tokens, self.min_tokens >= 1, "1 or more")
        longer = self.long_tokens >= self.min_tokens
        check("sample.long_tokens", self.long_tokens, longer, f"{self.min_tokens} or more")
        check("sample.long_share", self.long_share, 0 <= self.long_share < 1, "0 to below 1")
