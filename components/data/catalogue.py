"""Public data sets by name: which there are, and where the files of a source are that names one.

Sources name them (`Source.name`); `download.catalogue` adds your own. `components.data.entries`
describes the public ones, and `components.data.roles` reads their rows.
"""

import dataclasses
import difflib
from collections.abc import Sequence

from components.data.config import Entry, Source
from components.data.entries import ENTRIES
from model.options import check

NEAREST = 3  # names that the refusal of an unknown one shows
KINDS = {
    "pretrain": "text",
    "sft": "conversations",
    "preferences": "preferences",
    "problems": "problems",
    "test": "problems",
}
"""The kind of data set that each part of a dataset is made of."""


def find(name: str, own: Sequence[Entry] = ()) -> Entry:
    """The entry of a name, first among `own`. Raises ValueError with the three nearest names."""
    entries = {entry.name: entry for entry in (*ENTRIES, *own)}
    if name not in entries:
        # As their pages write them, names have capitals and an owner: openai/GSM8K.
        plain = name.lower().rpartition("/")[2]
        near = ", ".join(difflib.get_close_matches(plain, entries, NEAREST, cutoff=0))
        check("name", name, False, f"a data set of the catalogue; the nearest are {near}")
    return entries[name]


def resolve_all(
    part: str, sources: Sequence[Source], own: Sequence[Entry], field: str | None = None
) -> tuple[Source, ...]:
    """The sources of a part with their locations. Raises ValueError with the source's place.

    `field` is where the sources stand, by default the part.
    """
    resolved = []
    for number, source in enumerate(sources):
        try:
            resolved.append(resolve(source, part, own))
        except ValueError as error:
            raise ValueError(f"{field or part}[{number}].{error}") from None
    return tuple(resolved)


def resolve(source: Source, part: str, own: Sequence[Entry] = ()) -> Source:
    """A source with the split and the location of the data set that it names, for this part.

    A source without a name comes back as it is, and so does a made data set without a location.
    Raises ValueError for a name, a split or a part that does not fit.
    """
    if source.name is None:
        return source
    entry = find(source.name, own)
    names = " or ".join(part for part, kind in KINDS.items() if kind == entry.kind)
    check("name", source.name, KINDS[part] == entry.kind, f"in {names}, not in {part}")
    if source.location is not None:
        allowed = f"null: {entry.name} is made here; describe a file of yours in download.catalogue"
        check("location", source.location, entry.made is None, allowed)
        allowed = "null beside a location, in whose address a commit may stand"
        check("revision", source.revision, source.revision is None, allowed)
        if source.split is not None and entry.splits:
            _split(source, entry, evaluation=part == "test")  # a copy has the same splits
        return source
    is_nowhere = entry.repository is None and entry.made is None
    allowed = f"a path or an address; {entry.name} is not on the Hub"
    allowed += f": {entry.elsewhere}" if entry.elsewhere else ""
    check("location", None, not is_nowhere, allowed)
    split = _split(source, entry, evaluation=part == "test")
    if entry.made is not None:
        return dataclasses.replace(source, split=split)
    location = address(entry, split, source.revision)
    return dataclasses.replace(source, split=split, location=location)


def files_of_copy(source: Source, entry: Entry, part: str) -> str | None:
    """The pattern of the split's files where the source's location is a copy of the repository.

    None if no split suits the part. A copy without the repository's folders has no such files.
    """
    suited = (split for split, _ in entry.splits if (split in entry.held_out) == (part == "test"))
    pattern = dict(entry.splits).get(source.split or next(suited, ""))
    return pattern and f"{str(source.location).rstrip('/')}/{pattern}"


def address(entry: Entry, split: str, revision: str | None = None) -> str:
    """Where the files of a split are: hf://datasets/OWNER/NAME@COMMIT/PATTERN."""
    commit = revision or entry.commit
    at = f"@{commit}" if commit else ""
    return f"hf://datasets/{entry.repository}{at}/{dict(entry.splits)[split]}"


def _split(source: Source, entry: Entry, *, evaluation: bool) -> str:
    """The source's split, or the first that suits: never one for evaluation in training."""
    splits = ["train", "test"] if entry.made else [name for name, _ in entry.splits]
    suited = [name for name in splits if (name in entry.held_out) == evaluation]
    allowed = suited if not evaluation else splits
    split = source.split or next(iter(suited), None)
    purpose = "evaluation" if evaluation else "training"
    shown = ", ".join(allowed) or f"none, {entry.name} has no split for {purpose}"
    check("split", split, split in allowed, shown)
    assert split is not None
    return split
