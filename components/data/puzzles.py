"""Countdown and Sudoku 4x4 problems, the planning tasks of the papers on diffusion and RL.

Made from a seed, without a network. A problem's answer is the puzzle itself: it is judged by
checking the solution (`components.rewards.planning`), since many have more than one.
"""

import functools
import itertools
import random
from fractions import Fraction
from typing import Any

# Short, so that a model with a context of 128 tokens can be asked too.
COUNTDOWN = "Make {target} from {numbers}: use each number once, with + - * / ( )."
SUDOKU = "Fill in this 4x4 Sudoku; 0 is empty. Give all 16 digits.\n{rows}"
BLANKS = 8  # empty cells of a Sudoku, as in d1's test


def countdown(count: int, seed: int, *, numbers: int = 3) -> list[dict[str, Any]]:
    """Distinct problems: `numbers` of 1 to 99, and a target of 10 to 100 that they make."""
    draw = random.Random(f"countdown {seed}")
    puzzles: dict[str, dict[str, Any]] = {}
    while len(puzzles) < count:
        chosen = [draw.randint(1, 99) for _ in range(numbers)]
        target = _target(chosen, draw)
        if target is not None:
            puzzle = f"{' '.join(map(str, sorted(chosen)))} -> {target}"
            shown = ", ".join(map(str, chosen))
            prompt = COUNTDOWN.format(numbers=shown, target=target)
            puzzles.setdefault(puzzle, _problem(prompt, puzzle, "countdown"))
    return list(puzzles.values())


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
    draw = random.Random(f"sudoku {seed}")
    puzzles: dict[str, dict[str, Any]] = {}
    while len(puzzles) < count:
        grid = draw.choice(grids())
        empty = set(draw.sample(range(16), blanks))
        puzzle = "".join("0" if cell in empty else str(grid[cell]) for cell in range(16))
        if _solutions(puzzle) == 1:
            rows = "\n".join(puzzle[start : start + 4] for start in range(0, 16, 4))
            puzzles.setdefault(puzzle, _problem(SUDOKU.format(rows=rows), puzzle, "sudoku"))
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


def _solutions(puzzle: str) -> int:
    clues = [(cell, int(digit)) for cell, digit in enumerate(puzzle) if digit != "0"]
    return sum(all(grid[cell] == digit for cell, digit in clues) for grid in grids())


def _problem(prompt: str, puzzle: str, verifier: str) -> dict[str, Any]:
    return {"prompt": prompt, "answer": puzzle, "verifier": verifier}
