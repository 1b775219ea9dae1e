"""Where rows come from, and which of the pretraining documents are taken."""

import re
from dataclasses import dataclass
from typing import Literal

from components.rewards.config import Verifier
from model.options import Checked, check, check_text
from model.training.config import S3, SCHEME

HUB = re.compile(r"hf://[^/]+/[^/]+.*")


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

    location: str
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
    """How answers are compared with a problem's, where its row does not name a verifier."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_source("location", self.location, hub=True)
        check_text("column", self.column, "the name of a column")
        check("weight", self.weight, self.weight > 0, "above 0")


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
