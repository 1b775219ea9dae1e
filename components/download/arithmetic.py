"""A reasoning domain small enough for a laptop: sums of three-digit numbers with worked solutions.

All digits are 1, 3, 5 or 7, so that a thought takes 48 facts, which a model of 0.7 million
parameters learns steadily whatever its seed. Texts and demonstrations are by a pupil who forgets
most carries from the units: a model that imitates it forgets them too, one that learns from
preferences or verified answers need not. A sum and its mirror image, 135 + 357 and 357 + 135, are
one problem in two forms: both are trained on or neither is.
"""

import itertools
import random
from dataclasses import dataclass

from model.tokenizer import reasoned

DIGITS = (1, 3, 5, 7)
TABLE = 6_000  # lines of the addition table among the texts
FORGETS = 0.8  # share of the carries from the units that the pupil forgets
# A word is one token, and a sum one of twenty classes in a row: a small model learns that steadily.
# The last digit of a sum is modular addition, which it learns suddenly, late or never.
WORDS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
    *("eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen"),
    "nineteen",
)


@dataclass(frozen=True)
class Problem:
    """One sum, by its two terms."""

    first: int
    second: int

    @property
    def question(self) -> str:
        """How it is asked."""
        return f"{self.first} + {self.second} ="

    @property
    def answer(self) -> str:
        """Its verified answer."""
        return str(self.first + self.second)

    @property
    def pair(self) -> frozenset[int]:
        """The two terms in either order."""
        return frozenset((self.first, self.second))

    @property
    def has_carry(self) -> bool:
        """Whether the units add up to more than a digit."""
        return self.first % 10 + self.second % 10 > 9

    def worked(self, slip: str | None = None) -> str:
        """The delimited thought and solution."""
        return reasoned(*self.work(slip))

    def work(self, slip: str | None = None) -> tuple[str, str]:
        """The sums of the digits from the right, each with its carry, and the solution.

        `slip` is a mistake on the way: a wrong sum of the units or the tens, or the carry from the
        units, forgotten or made up.
        """
        steps, digits, carry = [], "", 0
        for place, name in enumerate(("units", "tens", "hundreds")):
            terms = [number // 10**place % 10 for number in (self.first, self.second)]
            total = sum(terms) + carry
            if slip == name:
                total += 1 if total < 19 else -1
            shown = terms if name == "units" else [*terms, carry]
            steps.append(f"{'+'.join(map(str, shown))}={WORDS[total]}")
            digits = f"{total if name == 'hundreds' else total % 10}{digits}"
            carry = total // 10
            if slip == "carry" and name == "units":
                carry = 1 - carry
        return " ".join(steps), digits


def problems() -> list[Problem]:
    """Every sum of two three-digit numbers of such digits."""
    numbers = [100 * a + 10 * b + c for a, b, c in itertools.product(DIGITS, repeat=3)]
    return [Problem(first, second) for first, second in itertools.product(numbers, repeat=2)]


def split(
    problems: list[Problem], test: int, rng: random.Random
) -> tuple[list[Problem], list[Problem]]:
    """`test` problems, no two of one pair of terms, and the problems of all other pairs, mixed."""
    held: dict[frozenset[int], Problem] = {}
    mixed = rng.sample(problems, len(problems))
    for problem in mixed:
        if len(held) < test:
            held.setdefault(problem.pair, problem)
    return list(held.values()), [problem for problem in mixed if problem.pair not in held]


def pupils_slip(problem: Problem, rng: random.Random) -> str | None:
    """The slip that the pupil makes in a sum, if it makes one."""
    return "carry" if problem.has_carry and rng.random() < FORGETS else None


def documents(problems: list[Problem], slips: list[str | None], rng: random.Random) -> list[str]:
    """Plain text of the domain: the pupil's worked sums, and lines of the addition table."""
    worked = [
        f"{problem.question} {' = '.join(problem.work(slip))}\n"
        for problem, slip in zip(problems, slips, strict=True)
    ]
    pairs = list(itertools.product(DIGITS, repeat=2))
    table = [f"{a}+{b}={WORDS[a + b]}\n" for a, b in pairs]
    table += [f"{a}+{b}+{c}={WORDS[a + b + c]}\n" for a, b in pairs for c in (0, 1)]
    return worked + rng.choices(table, k=TABLE)


def dialogue(problem: Problem, slip: str | None) -> dict:
    """A question and its worked answer as chat messages."""
    return {
        "messages": [
            {"role": "user", "content": problem.question},
            {"role": "assistant", "content": problem.worked(slip)},
        ]
    }


def preference(problem: Problem, rng: random.Random) -> dict:
    """The worked answer against one with a slip in it."""
    return {
        "prompt": problem.question,
        "chosen": problem.worked(),
        "rejected": problem.worked(rng.choice(["units", "carry", "tens"])),
    }


def verifiable(problem: Problem) -> dict:
    """A question with its verified answer."""
    return {"prompt": problem.question, "answer": problem.answer, "verifier": "exact"}
