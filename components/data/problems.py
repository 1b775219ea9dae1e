"""The problems of a dataset that rewards can judge.

The rest are named and counted: one bad row never ends a run that could go on without it.
"""

from collections.abc import Mapping
from pathlib import Path

from components.data import dataset as data
from components.rewards import named

SHOWN = 5  # bad rows that are named; the record holds their number


def usable(
    directory: Path, part: str, weights: named.Weights, *, limit: int | None = None
) -> tuple[dict[int, dict], int]:
    """The judgeable problems among the first `limit`, by row number, and the number of the rest.

    Raises ValueError if none is left, and `sandbox.SandboxError` if a reward would run code and
    this machine cannot protect itself.
    """
    rows = data.read(directory, part)[:limit]
    faults = named.unusable(rows, weights)
    path = directory / f"{part}.jsonl"
    tell(path, faults, "left out")
    if len(faults) == len(rows):
        raise ValueError(f"{path}: no problem can be judged; row 1: {faults[0]}")
    good = {number: row for number, row in enumerate(rows) if number not in faults}
    named.require(list(good.values()), weights)
    return good, len(faults)


def tell(path: Path, faults: Mapping[int, str], outcome: str) -> None:
    """Prints file, line and fault of the first bad rows, and how many more there are."""
    for number, fault in list(faults.items())[:SHOWN]:
        print(f"{path}:{number + 1}: {outcome}: {fault}", flush=True)
    if len(faults) > SHOWN:
        print(f"{path}: {outcome}: {len(faults) - SHOWN} more rows", flush=True)
