"""A reasoning domain small enough for a laptop: sums from reasoning-gym with worked solutions.

The problems and their answers are reasoning-gym's `chain_sum`; the worked steps, the texts and the
wrong answers are made here. Train and test problems never share an expression.
"""

import importlib
import random
import sys
from dataclasses import dataclass
from types import ModuleType

from model.tokenizer import reasoned

DRAWS = 60_000


@dataclass(frozen=True)
class Problem:
    """One sum: its question, its two terms and its verified answer."""

    question: str
    first: int
    second: int
    answer: str

    def thought(self) -> str:
        """The two digit sums, units first, with the carry."""
        return self._work(None)[0]

    def worked(self, *, slip: str | None = None) -> str:
        """The delimited thought and solution; `slip` (units, carry or tens) is a mistake in it."""
        return reasoned(*self._work(slip))

    def _work(self, slip: str | None) -> tuple[str, str]:
        low = self.first % 10 + self.second % 10
        if slip == "units":
            low += 1 if low < 18 else -1
        carry = low >= 10 if slip != "carry" else low < 10
        high = self.first // 10 + self.second // 10 + carry
        if slip == "tens":
            high += 1 if high < 19 else -1
        thought = (
            f"{self.first % 10}+{self.second % 10}={low} "
            f"{self.first // 10}+{self.second // 10}+{int(carry)}={high}"
        )
        return thought, f"{high}{low % 10}"


def problems(*, seed: int) -> list[Problem]:
    """Every sum of two two-digit numbers that a long draw of reasoning-gym holds, once each."""
    # reasoning-gym imports all its generators at once, which takes memory that other data need. Its
    # zebra puzzles want the SAT solver pycosat, which has no wheel and needs a C compiler; sums do
    # without, so an empty module may take its name.
    sys.modules.setdefault("pycosat", ModuleType("pycosat"))
    reasoning_gym = importlib.import_module("reasoning_gym")
    # reasoning-gym seeds row n with seed + n, so neighbouring seeds would draw the same rows.
    draw = reasoning_gym.create_dataset(
        "chain_sum",
        seed=seed * DRAWS,
        size=DRAWS,
        min_terms=2,
        max_terms=2,
        min_digits=2,
        max_digits=2,
    )
    found: dict[str, Problem] = {}
    for row in draw:
        expression = row["metadata"]["expression"]
        if "+" in expression and expression not in found:
            first, second = map(int, expression.split(" + "))
            found[expression] = Problem(f"{expression} =", first, second, row["answer"])
    return list(found.values())


def document(problem: Problem) -> str:
    """Plain text of the domain: the sum, its digits added from the right, and the result."""
    return f"{problem.first} + {problem.second} = {problem.thought()} = {problem.answer}"


def dialogue(problem: Problem) -> dict:
    """A question and its worked answer as chat messages."""
    return {
        "messages": [
            {"role": "user", "content": problem.question},
            {"role": "assistant", "content": problem.worked()},
        ]
    }


def preference(problem: Problem, rng: random.Random) -> dict:
    """The worked answer against one with a slip in it."""
    slip = rng.choice(["units", "carry", "tens"])
    return {
        "prompt": problem.question,
        "chosen": problem.worked(),
        "rejected": problem.worked(slip=slip),
    }


def verifiable(problem: Problem) -> dict:
    """A question with its verified answer."""
    return {"prompt": problem.question, "answer": problem.answer, "verifier": "exact"}
