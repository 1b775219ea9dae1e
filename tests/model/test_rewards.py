"""Rewards of single answers, each by hand."""

import pytest

from model import rewards, tokenizer

GOOD = tokenizer.reasoned("1+1=2", " 2 ")


def test_exact():
    assert rewards.exact(GOOD, "2") == 1.0
    assert rewards.exact(GOOD, "3") == 0.0
    assert rewards.exact("2", "2") == 0.0, "an answer outside the delimiters is none"


def test_well_formed():
    assert rewards.well_formed(GOOD) == 1.0
    assert rewards.well_formed("2") == 0.0
    assert rewards.well_formed(GOOD.replace(tokenizer.END_THOUGHT, "")) == 0.0
    assert rewards.well_formed(GOOD.replace(tokenizer.BEGIN_SOLUTION, "", 1)) == 0.0


@pytest.mark.parametrize(
    ("thought", "share"),
    [
        ("1+1=2", 1.0),
        ("7+8=15 2+9+1=12", 1.0),
        ("7+8=14 2+9+1=12", 0.5),
        ("7+8=14 2+9+1=13", 0.0),
        ("12+30=42", 1.0),
        ("1+1=23", 0.0),
        ("1+=2", 0.0),
        ("no sums at all", 0.0),
        ("", 0.0),
    ],
)
def test_equations(thought, share):
    assert rewards.equations(tokenizer.reasoned(thought, "2")) == share


def test_equations_of_the_solution_do_not_count():
    assert rewards.equations(tokenizer.reasoned("1+1=3", "1+1=2")) == 0.0
