"""Countdown and Sudoku 4x4 problems, the planning tasks of the papers on diffusion and RL.

Made from a seed, without a network. A problem's answer is the puzzle itself: it is judged by
checking the solution (`components.rewards.planning`), since many have more than one.
"""

import functools
import itertools
import random
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

from components.rewards import planning

# Short, so that a model with a context of 128 tokens can be asked too.
COUNTDOWN = "Make {target} from {numbers}: use each number once, with + - * / ( )."
SUDOKU = "Fill in this 4x4 Sudoku; 0 is empty. Give all 16 digits.\n{rows}"
BLANKS = 8  # empty cells of a Sudoku, as in d1's test
TEST, TRAIN = 256, 10_000  # problems of a split: the test as large as d1's
Puzzles = Iterator[tuple[str, dict[str, Any]]]


def split(kind: str, name: str, seed: int) -> Iterator[dict[str, Any]]:
    """The problems of the split train or test of countdown or sudoku, the same for a seed.

    No problem for training has the identity of one for the test, whatever the order of its numbers
    or the cells that are shown.
    """
    make, stream = MADE[kind]
    test = make(TEST, seed)
    if name == "test":
        yield from test
        return
    taken = {key for problem in test for key in identity(kind, problem["answer"])}
    seen: set[str] = set()
    for puzzle, problem in stream(random.Random(f"{kind} training {seed}")):
        if puzzle not in seen and not identity(kind, puzzle) & taken:
            seen.add(puzzle)
            yield problem
        if len(seen) == TRAIN:
            return


def identity(kind: str, puzzle: str) -> frozenset[str]:
    """What makes a puzzle the same as another: Countdown's sorted numbers and target, the full
    grids that solve a Sudoku of 4x4, and the cells of a larger one. Raises ValueError."""
    if kind == "countdown":
        numbers, target = planning.read_countdown(puzzle)
        return frozenset({f"{' '.join(map(str, sorted(numbers)))} -> {target}"})
    cells = "".join(map(str, planning.read_sudoku(puzzle)))
    if len(cells) != 16:
        return frozenset({cells})
    return frozenset("".join(map(str, grid)) for grid in _solutions(cells))


def countdown(count: int, seed: int, *, numbers: int = 3) -> list[dict[str, Any]]:
    """Distinct problems: `numbers` of 1 to 99, and a target of 10 to 100 that they make."""
    return _distinct(_countdowns(random.Random(f"countdown {seed}"), numbers), count)


def _countdowns(draw: random.Random, numbers: int = 3) -> Puzzles:
    while True:
        chosen = [draw.randint(1, 99) for _ in range(numbers)]
        target = _target(chosen, draw)
        if target is not None:
            puzzle = f"{' '.join(map(str, sorted(chosen)))} -> {target}"
            shown = ", ".join(map(str, chosen))
            prompt = COUNTDOWN.format(numbers=shown, target=target)
            yield puzzle, _problem(prompt, puzzle, "countdown")


def _target(numbers: list[int], draw: random.Random) -> int | None:
    """What the numbers make in their order by operators drawn, where it is whole, 10 to 100."""
    value = Fraction(numbers[0])
    for number in numbers[1:]:
        operator = draw.choice("+-*/")
        value = {
            "+": value + number,
            "-": value - number,
            "*": value * number,
            "/": value / number,
        }[operator]
    return int(value) if value.denominator == 1 and 10 <= value <= 100 else None


def sudoku(count: int, seed: int, *, blanks: int = BLANKS) -> list[dict[str, Any]]:
    """Distinct puzzles with one solution each and `blanks` empty cells, 1 to 12."""
    return _distinct(_sudokus(random.Random(f"sudoku {seed}"), blanks), count)


def _sudokus(draw: random.Random, blanks: int = BLANKS) -> Puzzles:
    while True:
        grid = draw.choice(grids())
        empty = set(draw.sample(range(16), blanks))
        puzzle = "".join("0" if cell in empty else str(grid[cell]) for cell in range(16))
        if len(_solutions(puzzle)) == 1:
            rows = "\n".join(puzzle[start : start + 4] for start in range(0, 16, 4))
            yield puzzle, _problem(SUDOKU.format(rows=rows), puzzle, "sudoku")


def _distinct(stream: Puzzles, count: int) -> list[dict[str, Any]]:
    puzzles: dict[str, dict[str, Any]] = {}
    while len(puzzles) < count:
        puzzle, problem = next(stream)
        puzzles.setdefault(puzzle, problem)
    return list(puzzles.values())


@functools.cache
def grids() -> list[tuple[int, ...]]:
    """All 288 full grids of 4x4."""
    rows = list(itertools.permutations((1, 2, 3, 4)))
    found = []
    for first, second in itertools.product(rows, rows):
        if any(set(first[at : at + 2]) & set(second[at : at + 2]) for at in (0, 2)):
            continue
        for third, fourth in itertools.product(rows, rows):
            if any(set(third[at : at + 2]) & set(fourth[at : at + 2]) for at in (0, 2)):
                continue
            if all(
                len(set(column)) == 4 for column in zip(first, second, third, fourth, strict=True)
            ):
                found.append((*first, *second, *third, *fourth))
    return found


def _solutions(puzzle: str) -> list[tuple[int, ...]]:
    clues = [(cell, int(digit)) for cell, digit in enumerate(puzzle) if digit != "0"]
    return [grid for grid in grids() if all(grid[cell] == digit for cell, digit in clues)]


def _problem(prompt: str, puzzle: str, verifier: str) -> dict[str, Any]:
    return {"prompt": prompt, "answer": puzzle, "verifier": verifier}


MADE: dict[str, tuple[Callable[[int, int], list[dict[str, Any]]], Callable[..., Puzzles]]] = {
    "countdown": (countdown, _countdowns),
    "sudoku": (sudoku, _sudokus),
}
