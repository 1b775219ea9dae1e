"""Rewards of one answer to one problem, as named functions, and their weighted sum.

A problem is a row of the dataset: `prompt`, `answer`, `verifier`. Running code is in
`model.sandbox`, comparing formulas in `model.equivalence`, judging by a language model in
`components.judge`; groups and advantages are elsewhere.
"""

import itertools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from model import equivalence, sandbox
from model.settings import REWARDS, check, check_rewards
from model.tokenizer import BEGIN_SOLUTION, BEGIN_THOUGHT, END_SOLUTION, END_THOUGHT

Problem = Mapping[str, Any]
Weights = Sequence[tuple[str, float]]

FORMAT = re.compile(
    re.escape(BEGIN_THOUGHT)
    + r"(?:(?!<\|).)*"
    + re.escape(END_THOUGHT + BEGIN_SOLUTION)
    + r"((?:(?!<\|).)*)"
    + re.escape(END_SOLUTION),
    re.DOTALL,
)
# No number of more than 99 digits: Python refuses to read those of thousands.
EQUATION = re.compile(r"(?<![\d+])(\d{1,99}(?:\+\d{1,99})+)=(\d{1,99})(?!\d)")
SOLUTION = re.compile(
    re.escape(BEGIN_SOLUTION) + r"((?:(?!<\|).)*)" + re.escape(END_SOLUTION), re.DOTALL
)
FENCE = re.compile(r"```(?:python|py)?\s*\n(.*?)```", re.DOTALL)


def solution(response: str) -> str | None:
    """The text between the first solution delimiters, stripped, or None when there is none."""
    found = SOLUTION.search(response)
    return found.group(1).strip() if found else None


def exact(response: str, answer: str) -> float:
    """1.0 when the delimited solution is the verified answer to the letter, else 0.0."""
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

    The program is the first fenced block of the solution, or all of it. Raises
    `sandbox.SandboxError` where this machine cannot run it safely.
    """
    given = solution(response)
    if not given:
        return 0.0
    fenced = FENCE.search(given)
    return float(sandbox.passes(fenced.group(1) if fenced else given, tests))


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

assert tuple(NAMED) == REWARDS, "model.settings names the rewards for configurations"


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


def require(problems: Sequence[Problem], weights: Weights) -> None:
    """Refuses a run before it starts, naming the first problem that could not be scored.

    Raises ValueError for an unknown verifier or empty tests, and `sandbox.SandboxError` where
    rewards would run code and this machine cannot protect itself.
    """
    check_rewards("rewards", tuple(weights))
    names = {name for name, _ in weights}
    runs_code = uses_math = False
    for number, problem in enumerate(problems):
        verifier = problem["verifier"]
        where = f"problems[{number}]"
        check(f"{where}.verifier", verifier, verifier in VERIFIERS, ", ".join(VERIFIERS))
        uses_math |= "math" in names or ("verified" in names and verifier == "math")
        if "code" in names or ("verified" in names and verifier == "code"):
            tests = problem["answer"]
            check(f"{where}.answer", tests, bool(tests.strip()), "tests of the code")
            runs_code = True
    if runs_code:
        sandbox.check()
    if uses_math:
        assert equivalence.shared()("1/2", "0.5"), "math-verify answers"
