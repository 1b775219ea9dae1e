"""Rewards of one answer to one problem, as named functions, and their weighted sum.

A problem is a row of the dataset: `prompt`, `answer`, `verifier`. Training rewards and evaluation
judge by the same `verified`, on plain text. `fences` finds a program, `sandbox` runs it,
`equivalence` compares formulas, and `judge` asks a language model.
"""

import itertools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeGuard

from components.rewards import equivalence, fences, sandbox
from components.rewards.config import REWARDS, check_rewards
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
Weights = Sequence[tuple[str, float]]

INNER = rf"((?:(?!{'|'.join(map(re.escape, REASONING))}).)*)"
SOLUTION = re.compile(re.escape(BEGIN_SOLUTION) + INNER + re.escape(END_SOLUTION), re.DOTALL)
# White space is layout (OpenThoughts' own has blank lines everywhere); the tokens that end a turn
# are no text.
FORMAT = re.compile(
    rf"\s*{re.escape(BEGIN_THOUGHT)}{INNER}{re.escape(END_THOUGHT)}\s*{SOLUTION.pattern}"
    rf"(?:\s|{re.escape(EOT)}|{re.escape(EOS)})*",
    re.DOTALL,
)
SURROGATE = re.compile("[\ud800-\udfff]")
# No number of more than 99 digits: Python refuses to read those of thousands.
EQUATION = re.compile(r"(?<![\d+])(\d{1,99}(?:\+\d{1,99})+)=(\d{1,99})(?!\d)")


def solution(response: str) -> str | None:
    """The text between the first solution delimiters, stripped, or None when there is none.

    Any text but a delimiter of thought or solution: `<` and `<|` are as good as other characters.
    """
    found = SOLUTION.search(response)
    return found.group(1).strip() if found else None


def exact(response: str, answer: str) -> float:
    """1.0 when the delimited solution is the verified answer to the letter, else 0.0.

    White space around either does not count; all else does, so `1,200` is not `1200`: whoever means
    numbers takes the verifier math.
    """
    return float(solution(response) == answer.strip())


def equivalent(response: str, answer: str) -> float:
    """1.0 when the delimited solution equals the verified answer mathematically, else 0.0.

    By math-verify. Takes seconds at most, whatever the solution; ValueError when the verified
    answer is no expression.
    """
    given = solution(response)
    return float(bool(given) and equivalence.shared()(answer, str(given)))


def code(response: str, tests: str) -> float:
    """1.0 when the program in the delimited solution passes the tests, else 0.0.

    The program is the first fenced block of the solution, or all of it (`fences`). Raises
    `sandbox.SandboxError` where this machine cannot run it safely.
    """
    given = solution(response)
    return float(bool(given) and sandbox.passes(fences.program(str(given)), tests))


def well_formed(response: str) -> float:
    """1.0 when the answer is a thought and then a solution, both delimited, and nothing else.

    White space before, between and after them is no text.
    """
    return float(FORMAT.fullmatch(response) is not None)


def equations(response: str) -> float:
    """The share of the sums in the thought that hold, 0.0 when there is none.

    A sum is `a+b=c` or `a+b+c=d` with plain digits; anything else in the thought is not judged.
    """
    thought = response.split(END_THOUGHT)[0]
    sums = EQUATION.findall(thought)
    return sum(sum(map(int, left.split("+"))) == int(right) for left, right in sums) / max(
        len(sums), 1
    )


def overlong(tokens: int, limit: int, buffer: int) -> float:
    """Soft overlong punishment, -1.0 to 0.0 (DAPO, arXiv:2503.14476, equation 13).

    0 up to `limit - buffer` tokens, falling in a line to -1 at `limit`, and -1 beyond.
    """
    return min(0.0, max(-1.0, (limit - buffer - tokens) / buffer))


VERIFIERS: dict[str, Callable[[str, str], float]] = {
    "exact": exact,
    "math": equivalent,
    "code": code,
}
"""How an answer is held against the dataset's, by the name in a problem's `verifier`."""


def verified(response: str, problem: Problem) -> float:
    """The verdict of the problem's own verifier. Raises ValueError when there is no such one."""
    name = problem["verifier"]
    check("verifier", name, name in VERIFIERS, ", ".join(VERIFIERS))
    return VERIFIERS[name](response, problem["answer"])


def _overlong(_: str, problem: Problem) -> float:
    for name in ("tokens", "max_tokens"):
        check(name, problem.get(name), name in problem, "tokens of the answer, given beside it")
    limit = problem["max_tokens"]
    return overlong(problem["tokens"], limit, max(limit // 5, 1))


NAMED: dict[str, Callable[[str, Problem], float]] = {
    "verified": verified,
    "exact": lambda response, problem: exact(response, problem["answer"]),
    "math": lambda response, problem: equivalent(response, problem["answer"]),
    "code": lambda response, problem: code(response, problem["answer"]),
    "format": lambda response, _: well_formed(response),
    "equations": lambda response, _: equations(response),
    "overlong": _overlong,
}
"""Every reward that a configuration can weigh. `overlong` also needs `tokens` and `max_tokens` in
the problem, the answer's length and the longest allowed; it starts at four fifths (DAPO)."""

assert tuple(NAMED) == REWARDS, "components.rewards.config names them all"


class Scored(NamedTuple):
    """The weighted sum of an answer's rewards, and each of them before weighting."""

    total: float
    parts: dict[str, float]


def score(response: str, problem: Problem, weights: Weights) -> Scored:
    """Every reward of `weights`, (name, weight) pairs, for one answer.

    An empty answer earns 0 from each but `overlong`, which depends on its length alone. Raises
    ValueError for an unknown name, and naming reward and problem for one that is not finite.
    """
    check_rewards("rewards", tuple(weights))
    parts = {name: NAMED[name](response, problem) for name, _ in weights}
    total = sum(weight * parts[name] for name, weight in weights)
    for name, value in (*parts.items(), ("total", total)):
        if not math.isfinite(value):
            asked = f"problem {problem.get('prompt')!r}"
            raise ValueError(f"reward {name}={value!r} of {asked}, allowed: a finite number")
    return Scored(total, parts)


def score_all(
    responses: Sequence[str], problems: Sequence[Problem], weights: Weights, *, workers: int = 1
) -> list[Scored]:
    """`score` of each answer with its problem, `workers` at a time: processes do the slow part."""
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(score, responses, problems, itertools.repeat(weights)))


def unusable(problems: Sequence[Problem], weights: Weights) -> dict[int, str]:
    """Which problems no answer could be right for, by their place, with the field that is why.

    Prompt and answer must be texts, the verifier a known one, the answer of a formula one that
    math-verify can read. Reading takes some milliseconds for each formula that is no plain number.
    """
    check_rewards("rewards", tuple(weights))
    names = {name for name, _ in weights}
    faults = {number: _fault(problem, names) for number, problem in enumerate(problems)}
    return {number: fault for number, fault in faults.items() if fault}


def require(problems: Sequence[Problem], weights: Weights) -> None:
    """Refuses a run before it starts, naming the first problem that could not be scored.

    Raises ValueError for an `unusable` problem, and `sandbox.SandboxError` where rewards would run
    code and this machine cannot protect itself.
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
    """The verifiers that weights of these names hold an answer to this problem against."""
    own = {problem["verifier"]} if "verified" in names else set()
    return own | (names & VERIFIERS.keys())


def _fault(problem: Problem, names: set[str]) -> str | None:
    prompt, answer, verifier = (problem.get(name) for name in ("prompt", "answer", "verifier"))
    if not _is_text(prompt):
        return f"prompt={prompt!r}, allowed: a text"
    if not isinstance(verifier, str) or verifier not in VERIFIERS:
        return f"verifier={verifier!r}, allowed: {', '.join(VERIFIERS)}"
    used = _verifiers(problem, names)
    if not used:
        return None
    if not _is_text(answer):
        return f"answer={answer!r}, allowed: {'tests of the code' if 'code' in used else 'a text'}"
    if "math" in used and not equivalence.shared().reads(answer):
        return f"answer={answer!r}, allowed: a mathematical expression"
    return None


def _is_text(value: Any) -> TypeGuard[str]:
    """Whether it is a text with something to read, in UTF-8, which knows no half a surrogate."""
    return isinstance(value, str) and bool(value.strip()) and not SURROGATE.search(value)
