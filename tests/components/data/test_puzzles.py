"""Made puzzles are distinct, solvable, the same from the same seed, and judged by their
verifier."""

import itertools

import pytest

from components.data import puzzles
from components.rewards.planning import read_countdown, read_sudoku, solves_countdown, solves_sudoku


@pytest.mark.parametrize("make", [puzzles.countdown, puzzles.sudoku])
def test_distinct_and_by_seed(make):
    rows = make(60, 1)
    assert rows == make(60, 1) != make(60, 2)
    assert len({row["answer"] for row in rows}) == 60
    assert make(20, 1) == rows[:20]
    assert all({*row} == {"prompt", "answer", "verifier"} for row in rows)


def test_countdown_can_be_solved():
    for row in puzzles.countdown(40, 3):
        numbers, target = read_countdown(row["answer"])
        assert 10 <= target <= 100 and str(target) in row["prompt"]
        forms = ("{} {} {} {} {}", "({} {} {}) {} {}", "{} {} ({} {} {})")
        assert any(
            solves_countdown(form.format(a, one, b, two, c), row["answer"])
            for a, b, c in itertools.permutations(numbers)
            for one, two in itertools.product("+-*/", repeat=2)
            for form in forms
        ), row


def test_sudoku_has_one_solution():
    for row in puzzles.sudoku(40, 3):
        cells = read_sudoku(row["answer"])
        assert cells.count(0) == puzzles.BLANKS
        grids = ["".join(map(str, grid)) for grid in puzzles.grids()]
        assert sum(solves_sudoku(grid, row["answer"]) for grid in grids) == 1
