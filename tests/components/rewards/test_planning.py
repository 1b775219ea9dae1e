"""Puzzles are judged by checking: every solution counts, and nothing else does."""

import pytest

from components.data import puzzles
from components.rewards.planning import (
    read_countdown,
    read_sudoku,
    solves_countdown,
    solves_sudoku,
)


@pytest.mark.parametrize(
    ("solution", "is_right"),
    [
        ("3 * 5 + 4", True),
        ("4+5*3", True),
        ("(4 + 5*3) = 19", True),
        ("4 + 5 × 3", True),  # noqa: RUF001
        ("3 * 5 + 4 = 20", False),
        ("3*5", False),
        ("3*5+4+0", False),
        ("19", False),
        ("3*5+4*1", False),
        ("4 + 15", False),
        ("3*5+4 or so", False),
        ("__import__('os')", False),
        ("5*3-(-4)", False),
        ("((((" * 100, False),
        ("", False),
        ("9**9**9", False),
        ("5/(3-3)", False),
        ("3.0*5+4", False),
        ("True*5+4", False),
    ],
)
def test_countdown(solution, is_right):
    assert solves_countdown(solution, "3 4 5 -> 19") is is_right


def test_countdown_is_exact():
    assert solves_countdown("8/(3-8/3)", "3 3 8 8 -> 24")
    assert not solves_countdown("8/(3-8/3)", "3 3 8 8 -> 23")


GRID = "1234341221434321"
PUZZLE = "1204340021434301"


@pytest.mark.parametrize(
    ("solution", "is_right"),
    [
        (GRID, True),
        ("1 2 3 4\n3 4 1 2\n2 1 4 3\n4 3 2 1", True),
        ("|12|34|\n|34|12|\n|21|43|\n|43|21|", True),
        (GRID[4:] + GRID[:4], False),
        (PUZZLE, False),
        (GRID[:-1], False),
        (GRID + "1", False),
        (f"the grid is {GRID}", False),
        ("", False),
    ],
)
def test_sudoku(solution, is_right):
    assert solves_sudoku(solution, PUZZLE) is is_right


def test_every_solution_of_an_ambiguous_puzzle_counts():
    clues = "0" * 16
    assert all(solves_sudoku("".join(map(str, grid)), clues) for grid in puzzles.grids())
    assert len(puzzles.grids()) == 288


@pytest.mark.parametrize("puzzle", ["", "3 4 5", "3 4 -> x", "-> 5", "3.5 2 -> 7"])
def test_no_countdown(puzzle):
    with pytest.raises(ValueError, match="allowed: numbers -> target"):
        read_countdown(puzzle)


@pytest.mark.parametrize("puzzle", ["", "12", "5" + "0" * 15, "x" + "0" * 15, "0" * 17])
def test_no_sudoku(puzzle):
    with pytest.raises(ValueError, match="allowed: 16 or 81 digits"):
        read_sudoku(puzzle)
