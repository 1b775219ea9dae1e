"""Whether an answer solves a Countdown or a Sudoku puzzle: by checking it, never by comparing.

Such puzzles have several solutions (a quarter of d1's Sudoku test has), so a stored one says
little. Pure functions of texts. Puzzles are made by `components.data.puzzles`.
"""

import ast
import math
import re
from fractions import Fraction

LONGEST = 200  # characters of an expression that is read
OPERATORS = {
    ast.Add: lambda left, right: left + right,
    ast.Sub: lambda left, right: left - right,
    ast.Mult: lambda left, right: left * right,
    ast.Div: lambda left, right: left / right,
}
SIGNS = str.maketrans({"×": "*", "·": "*", "÷": "/", "−": "-", "–": "-", "[": "(", "]": ")"})  # noqa: RUF001
COUNTDOWN = re.compile(r"\s*(\d{1,9}(?:[\s,]+\d{1,9})*)\s*->\s*(\d{1,9})\s*", re.ASCII)


def read_countdown(puzzle: str) -> tuple[list[int], int]:
    """The numbers and the target of a puzzle written `3 4 5 -> 23`. Raises ValueError."""
    parts = COUNTDOWN.fullmatch(puzzle)
    if parts is None:
        raise ValueError(f"answer={puzzle!r}, allowed: numbers -> target, as in 3 4 5 -> 23")
    return [int(number) for number in re.split(r"[\s,]+", parts[1])], int(parts[2])


def solves_countdown(solution: str, puzzle: str) -> bool:
    """Whether the expression uses every number once, and nothing else, and makes the target.

    +, -, *, / and parentheses are allowed, computed exactly. `= target` may follow.
    """
    numbers, target = read_countdown(puzzle)
    expression, equals, result = solution.translate(SIGNS).partition("=")
    if equals and result.strip() != str(target):
        return False
    try:
        used: list[int] = []
        value = _value(expression, used)
    except (ValueError, ZeroDivisionError):
        return False
    return sorted(used) == sorted(numbers) and value == target


def _value(expression: str, used: list[int]) -> Fraction:
    """The value of an arithmetic expression; notes the numbers in it. ValueError for any other."""
    if len(expression) > LONGEST:
        raise ValueError("too long")
    try:
        tree = ast.parse(expression.strip(), mode="eval")
    except (SyntaxError, MemoryError, RecursionError) as error:
        raise ValueError("no expression") from error
    return _evaluate(tree.body, used)


def _evaluate(node: ast.expr, used: list[int]) -> Fraction:
    if isinstance(node, ast.Constant) and type(node.value) is int:
        used.append(node.value)
        return Fraction(node.value)
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        left, right = _evaluate(node.left, used), _evaluate(node.right, used)
        return OPERATORS[type(node.op)](left, right)
    raise ValueError("neither a whole number nor one of + - * /")


def read_sudoku(puzzle: str) -> list[int]:
    """The cells of a puzzle, row by row, 0 for an empty one: 16, or 81. Raises ValueError."""
    digits = re.sub(r"[\s|]", "", puzzle.replace(".", "0"))
    cells = [int(digit) for digit in digits] if digits.isascii() and digits.isdigit() else []
    size = math.isqrt(len(cells))
    if len(cells) not in (16, 81) or max(cells) > size:
        raise ValueError(f"answer={puzzle!r}, allowed: 16 or 81 digits row by row, 0 where empty")
    return cells


def solves_sudoku(solution: str, puzzle: str) -> bool:
    """Whether the grid keeps the puzzle's digits, and every row, column and box holds each once.

    The digits are read in order, whatever layout is between them; a letter makes it no grid.
    """
    clues = read_sudoku(puzzle)
    if re.search(r"[^\W\d_]", solution):
        return False
    cells = [int(digit) for digit in re.findall(r"[0-9]", solution)]
    kept = len(cells) == len(clues) and all(
        clue in (0, cell) for clue, cell in zip(clues, cells, strict=True)
    )
    size = math.isqrt(len(clues))
    return kept and all(sorted(group) == list(range(1, size + 1)) for group in groups(cells))


def groups(cells: list[int]) -> list[list[int]]:
    """Rows, columns and boxes of a grid."""
    size = math.isqrt(len(cells))
    box = math.isqrt(size)
    rows = [cells[start : start + size] for start in range(0, len(cells), size)]
    columns = [list(column) for column in zip(*rows, strict=True)]
    boxes = [
        [rows[top + y][left + x] for y in range(box) for x in range(box)]
        for top in range(0, size, box)
        for left in range(0, size, box)
    ]
    return [*rows, *columns, *boxes]
