"""Problems that are made from a seed, without a network: Countdown, Sudoku 4x4 and sums."""

import random
from collections.abc import Callable
from typing import Any

from components.data import arithmetic, puzzles

COUNT = 256  # problems where no limit is set, as in d1's test sets
MOST = 10_000  # problems of a task: a made set has no end of its own
Problems = list[dict[str, Any]]


def sums(count: int, seed: int) -> Problems:
    """The first test problems of the data that the download stage makes from this seed.

    A model that was trained on sums of this seed has seen none of them.
    """
    test, _ = arithmetic.split(arithmetic.sums(), count, random.Random(seed))
    return [arithmetic.verifiable(problem) for problem in test]


MADE: dict[str, Callable[[int, int], Problems]] = {
    "countdown": puzzles.countdown,
    "sudoku": puzzles.sudoku,
    "sums": sums,
}


def problems(name: str, limit: int | None, seed: int) -> Problems:
    """The problems of the made task `name`: `limit` of them, 256 by default, at most 10000."""
    return MADE[name](min(limit or COUNT, MOST), seed)
