"""A reasoning domain small enough for a laptop: sums of three-digit numbers with worked solutions.

All digits are 1, 3, 5 or 7: thoughts then need only 48 facts, which a model of 0.7 million
parameters learns with any seed. Texts and demonstrations are the work of a pupil who forgets most
carries from the units: a model that imitates the pupil forgets them too, a model that learns from
preferences or verified answers need not. 135 + 357 and 357 + 135 count as the same problem: the
test set never holds a sum whose mirror image is trained on.
"""

import itertools
import random
from dataclasses import dataclass

from model.tokenizer import reasoned

DIGITS = (1, 3, 5, 7)
TABLE = 6_000  # lines of the addition table among the texts
FORGETS = 0.8  # share of carries from the units that the pupil forgets
# Each word is one token, so a sum is a choice among twenty ordered classes, which a small model
# learns steadily. Digits would make it modular addition, which it learns suddenly, late or never.
WORDS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
    *("eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen"),
    "nineteen",
)


@dataclass(frozen=True)
class Sum:
    """A problem of the domain: the sum of two terms."""

    first: int
    second: int

    @property
    def question(self) -> str:
        """The text of the prompt."""
        return f"{self.first} + {self.second} ="

    @property
    def answer(self) -> str:
        """The verified answer."""
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

        `slip` is a mistake in them: a wrong sum of the "units" or "tens", or a "carry" from the
        units that is forgotten or made up.
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


def sums() -> list[Sum]:
    """Every sum of two three-digit numbers of these digits."""
    numbers = [100 * a + 10 * b + c for a, b, c in itertools.product(DIGITS, repeat=3)]
    return [Sum(first, second) for first, second in itertools.product(numbers, repeat=2)]


def split(sums: list[Sum], test: int, rng: random.Random) -> tuple[list[Sum], list[Sum]]:
    """`test` sums for the test, no two of the same pair of terms, and all sums of other pairs.

    Both lists are shuffled.
    """
    held_out: dict[frozenset[int], Sum] = {}
    shuffled = rng.sample(sums, len(sums))
    for problem in shuffled:
        if len(held_out) < test:
            held_out.setdefault(problem.pair, problem)
    return list(held_out.values()), [
        problem for problem in shuffled if problem.pair not in held_out
    ]


def pupils_slip(problem: Sum, rng: random.Random) -> str | None:
    """The mistake that the pupil makes in a sum, or None."""
    return "carry" if problem.has_carry and rng.random() < FORGETS else None


def documents(sums: list[Sum], slips: list[str | None], rng: random.Random) -> list[str]:
    """Pretraining texts: the pupil's worked sums, and lines of the addition table."""
    worked = [
        f"{problem.question} {' = '.join(problem.work(slip))}\n"
        for problem, slip in zip(sums, slips, strict=True)
    ]
    pairs = list(itertools.product(DIGITS, repeat=2))
    table = [f"{a}+{b}={WORDS[a + b]}\n" for a, b in pairs]
    table += [f"{a}+{b}+{c}={WORDS[a + b + c]}\n" for a, b in pairs for c in (0, 1)]
    return worked + rng.choices(table, k=TABLE)


def dialogue(problem: Sum, slip: str | None) -> dict:
    """A question and its worked answer as chat messages."""
    return {
        "messages": [
            {"role": "user", "content": problem.question},
            {"role": "assistant", "content": problem.worked(slip)},
        ]
    }


def preference(problem: Sum, rng: random.Random) -> dict:
    """The worked answer, preferred to an answer with a mistake."""
    return {
        "prompt": problem.question,
        "chosen": problem.worked(),
        "rejected": problem.worked(rng.choice(["units", "carry", "tens"])),
    }


def verifiable(problem: Sum) -> dict:
    """A question with its verified answer."""
    return {"prompt": problem.question, "answer": problem.answer, "verifier": "exact"}
