"""Rewards of an answer: is the solution right, and is the answer well formed.

Named functions of texts. Weights, groups and advantages are elsewhere.
"""

import re
from collections.abc import Callable

from model.tokenizer import BEGIN_SOLUTION, BEGIN_THOUGHT, END_SOLUTION, END_THOUGHT

FORMAT = re.compile(
    re.escape(BEGIN_THOUGHT)
    + r"(?:(?!<\|).)*"
    + re.escape(END_THOUGHT + BEGIN_SOLUTION)
    + r"((?:(?!<\|).)*)"
    + re.escape(END_SOLUTION),
    re.DOTALL,
)
EQUATION = re.compile(r"(?<![\d+])(\d+(?:\+\d+)+)=(\d+)(?!\d)")
SOLUTION = re.compile(
    re.escape(BEGIN_SOLUTION) + r"((?:(?!<\|).)*)" + re.escape(END_SOLUTION), re.DOTALL
)


def solution(response: str) -> str | None:
    """The text between the first solution delimiters, stripped, or None when there is none."""
    found = SOLUTION.search(response)
    return found.group(1).strip() if found else None


def exact(response: str, answer: str) -> float:
    """1.0 when the delimited solution is the verified answer to the letter, else 0.0."""
    return float(solution(response) == answer.strip())


def well_formed(response: str) -> float:
    """1.0 when the answer is a thought followed by a solution, both delimited, else 0.0."""
    return float(FORMAT.match(response.strip()) is not None)


def equations(response: str) -> float:
    """The share of the sums in the thought that hold, 0.0 when there is none.

    A sum is `a+b=c` or `a+b+c=d` with plain digits; anything else in the thought is not judged.
    """
    thought = response.split(END_THOUGHT)[0]
    sums = EQUATION.findall(thought)
    return sum(sum(map(int, left.split("+"))) == int(right) for left, right in sums) / max(
        len(sums), 1
    )


VERIFIERS: dict[str, Callable[[str, str], float]] = {"exact": exact}
