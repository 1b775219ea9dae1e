"""Rewards of one answer to one problem, as named functions, and their weighted sum.

`is_right` is the only judgement of an answer: training rewards (`verified`) and evaluation both
call it, on plain text. `fences` extracts a program, `sandbox` runs it, `equivalence` compares
formulas. Scores from a language model are in `judge`.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeGuard

from components.rewards import equivalence, fences, planning, sandbox
from components.rewards.config import REWARDS, VERIFIERS, Verifier, check_rewards
from model.options import check
from model.tokenizer import (
    BEGIN_SOLUTION,
    BEGIN_THOUGHT,
    END_SOLUTION,
    END_THOUGHT,
    EOS,
    EOT,
    REASONING,
)

Problem = Mapping[str, Any]
"""A row of the dataset's problems: `prompt`, `answer`, `verifier`."""
Weights = Sequence[tuple[str, float]]

INNER = rf"((?:(?!{'|'.join(map(re.escape, REASONING))}).)*)"
SOLUTION = re.compile(re.escape(BEGIN_SOLUTION) + INNER + re.escape(END_SOLUTION), re.DOTALL)
# White space is layout (OpenThoughts has blank lines between all parts), and the tokens that end a
# turn are not part of the text.
FORMAT = re.compile(
    rf"\s*{re.escape(BEGIN_THOUGHT)}{INNER}{re.escape(END_THOUGHT)}\s*{SOLUTION.pattern}"
    rf"(?:\s|{re.escape(EOT)}|{re.escape(EOS)})*",
    re.DOTALL,
)
SURROGATE = re.compile("[\ud800-\udfff]")
# At most 99 digits: Python refuses to parse integers of thousands of digits.
EQUATION = re.compile(r"(?<![\d+])(\d{1,99}(?:\+\d{1,99})+)=(\d{1,99})(?!\d)")


def solution(response: str) -> str | None:
    """The text between the first solution delimiters, stripped, or None if there is none.

    It may hold any text except the delimiters of thought and solution; `<` and `<|` are ordinary
    characters.
    """
    match = SOLUTION.search(response)
    return match.group(1).strip() if match else None


def is_right(response: str, problem: Problem) -> bool:
    """Whether the delimited solution is right, by the problem's own verifier.

    Raises ValueError for an unknown verifier, `sandbox.SandboxError` if code has to be run and this
    machine cannot do that safely.
    """
    verifier = problem["verifier"]
    check("verifier", verifier, verifier in VERIFIERS, ", ".join(VERIFIERS))
    return COMPARISONS[verifier](response, problem["answer"])


def exact(response: str, answer: str) -> bool:
    """Whether the delimited solution is the verified answer to the letter.

    White space around either does not count; everything else does, so `1,200` is not `1200`. Use
    the verifier math to compare numbers.
    """
    return solution(response) == answer.strip()


def equivalent(response: str, answer: str) -> bool:
    """Whether the delimited solution equals the verified answer mathematically, by math-verify.

    Takes a few seconds at most, whatever the solution. Raises ValueError if the verified answer is
    not an expression.
    """
    text = solution(response)
    return bool(text) and equivalence.shared()(answer, str(text))


def code(response: str, tests: str) -> bool:
    """Whether the program in the delimited solution passes the tests.

    The program is the first fenced block of the solution, or all of it (`fences`). Raises
    `sandbox.SandboxError` if this machine cannot run it safely.
    """
    text = solution(response)
    return bool(text) and sandbox.passes(fences.program(str(text)), tests)


def countdown(response: str, answer: str) -> bool:
    """Whether the delimited solution solves the Countdown puzzle in `answer`, as in `3 4 5 -> 23`.

    Raises ValueError if `answer` is no such puzzle.
    """
    text = solution(response)
    return bool(text) and planning.solves_countdown(str(text), answer)


def sudoku(response: str, answer: str) -> bool:
    """Whether the delimited solution is a full grid that solves the Sudoku puzzle in `answer`.

    Raises ValueError if `answer` is no such puzzle.
    """
    text = solution(response)
    return bool(text) and planning.solves_sudoku(str(text), answer)


COMPARISONS: dict[Verifier, Callable[[str, str], bool]] = {
    "exact": exact,
    "math": equivalent,
    "code": code,
    "countdown": countdown,
    "sudoku": sudoku,
}
"""Compares a response with the dataset's answer, by the name of the verifier."""


def verified(response: str, problem: Problem) -> float:
    """1.0 for a right answer, 0.0 for a wrong one (`is_right`)."""
    return float(is_right(response, problem))


def well_formed(response: str) -> float:
    """1.0 for a thought and then a solution, both delimited, with nothing else; otherwise 0.0.

    White space before, between and after the two is allowed.
    """
    return float(FORMAT.fullmatch(response) is not None)


def equations(response: str) -> float:
    """The share of the sums in the thought that are correct, 0.0 if there are none.

    A sum is `a+b=c`, `a+b+c=d` and so on, in plain digits; other text in the thought is ignored.
    """
    thought = response.split(END_THOUGHT)[0]
    sums = EQUATION.findall(thought)
    return sum(sum(map(int, left.split("+"))) == int(right) for left, right in sums) / max(
        len(sums), 1
    )


def overlong(tokens: int, limit: int, buffer: int) -> float:
    """Soft overlong punishment, -1.0 to 0.0 (DAPO, arXiv:2503.14476, equation 13).

    0 up to `limit - buffer` tokens, falling linearly to -1 at `limit`, and -1 beyond.
    """
    return min(0.0, max(-1.0, (limit - buffer - tokens) / buffer))


def _overlong(_: str, problem: Problem) -> float:
    for name in ("tokens", "max_tokens"):
        check(name, problem.get(name), name in problem, "tokens of the answer, given beside it")
    limit = problem["max_tokens"]
    return overlong(problem["tokens"], limit, max(limit // 5, 1))


NAMED: dict[str, Callable[[str, Problem], float]] = {
    "verified": verified,
    "exact": lambda response, problem: float(exact(response, problem["answer"])),
    "math": lambda response, problem: float(equivalent(response, problem["answer"])),
    "code": lambda response, problem: float(code(response, problem["answer"])),
    "countdown": lambda response, problem: float(countdown(response, problem["answer"])),
    "sudoku": lambda response, problem: float(sudoku(response, problem["answer"])),
    "format": lambda response, _: well_formed(response),
    "equations": lambda response, _: equations(response),
    "overlong": _overlong,
}
"""Every reward that a configuration can weigh. `overlong` also needs `tokens` and `max_tokens` in
the problem, the answer's length and the longest allowed; it starts at four fifths (DAPO)."""

assert tuple(NAMED) == REWARDS, "components.rewards.config names them all"


class Scored(NamedTuple):
    """The weighted sum of an answer's rewards, and each reward before weighting."""

    total: float
    parts: dict[str, float]


def score(response: str, problem: Problem, weights: Weights) -> Scored:
    """Every reward of `weights`, (name, weight) pairs, for one answer.

    An empty answer earns 0 from each but `overlong`, which depends on its length alone. Raises
    ValueError for an unknown name, and for a reward that is not finite, naming the problem too.
    """
    check_rewards("rewards", tuple(weights))
    parts = {name: NAMED[name](response, problem) for name, _ in weights}
    total = sum(weight * parts[name] for name, weight in weights)
    for name, value in (*parts.items(), ("total", total)):
        if not math.isfinite(value):
            place = f"problem {problem.get('prompt')!r}"
            raise ValueError(f"reward {name}={value!r} of {place}, allowed: a finite number")
    return Scored(total, parts)


def unusable(problems: Sequence[Problem], weights: Weights) -> dict[int, str]:
    """The problems that no answer could be right for: position -> bad field and what is allowed.

    Prompt and answer must be texts, the verifier a known one, the answer of a puzzle the puzzle
    itself, and math-verify must be able to read the answer of a formula, which takes some
    milliseconds unless it is a plain number.
    """
    check_rewards("rewards", tuple(weights))
    names = {name for name, _ in weights}
    faults = {}
    for number, problem in enumerate(problems):
        try:
            _check_problem(problem, names)
        except ValueError as fault:
            faults[number] = str(fault)
    return faults


def require(problems: Sequence[Problem], weights: Weights) -> None:
    """Refuses a run before it starts, naming the first problem that could not be scored.

    Raises ValueError for an `unusable` problem, and `sandbox.SandboxError` if the rewards run code
    and this machine lacks a protection.
    """
    for number, fault in unusable(problems, weights).items():
        raise ValueError(f"problems[{number}].{fault}")
    names = {name for name, _ in weights}
    used = {verifier for problem in problems for verifier in _verifiers(problem, names)}
    if "code" in used:
        sandbox.check()
    if "math" in used:
        assert equivalence.shared()("1/2", "0.5"), "math-verify answers"


def _verifiers(problem: Problem, names: set[str]) -> set[str]:
    """The verifiers by which the rewards of these names judge an answer to this problem."""
    own = {problem["verifier"]} if "verified" in names else set()
    return own | (names & set(VERIFIERS))


def _check_problem(problem: Problem, names: set[str]) -> None:
    """Raises ValueError naming the first field that the rewards of these names cannot use."""
    prompt, answer, verifier = (problem.get(name) for name in ("prompt", "answer", "verifier"))
    check("prompt", prompt, _is_text(prompt), "a text")
    check("verifier", verifier, verifier in VERIFIERS, ", ".join(VERIFIERS))
    verifiers = _verifiers(problem, names)
    if not verifiers:
        return
    allowed = "tests of the code" if "code" in verifiers else "a text"
    check("answer", answer, _is_text(answer), allowed)
    if "math" in verifiers:
        readable = equivalence.shared().reads(str(answer))
        check("answer", answer, readable, "a mathematical expression")
    if "countdown" in verifiers:
        planning.read_countdown(str(answer))
    if "sudoku" in verifiers:
        planning.read_sudoku(str(answer))


def _is_text(value: Any) -> TypeGuard[str]:
    """Whether it is a text that is not blank and can be encoded in UTF-8."""
    return isinstance(value, str) and bool(value.strip()) and not SURROGATE.search(value)
