"""Problems that no answer could be right for: found before a run, named, and refused."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.rewards import equivalence, named
from model.tokenizer import reasoned

PROBLEM = {"prompt": "1 + 1?", "answer": "2", "verifier": "exact"}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"verifier": "oracle"},
            "verifier='oracle', allowed: exact, math, code, countdown, sudoku",
        ),
        ({"verifier": None}, "verifier=None, allowed: exact, math, code, countdown, sudoku"),
        (
            {"verifier": ["math"]},
            "verifier=['math'], allowed: exact, math, code, countdown, sudoku",
        ),
        ({"verifier": "code", "answer": " "}, "answer=' ', allowed: tests of the code"),
        (
            {"verifier": "math", "answer": r"\boxed{}"},
            r"answer='\\boxed{}', allowed: a mathematical",
        ),
        (
            {"verifier": "math", "answer": r"\$"},
            r"answer='\\$', allowed: a mathematical expression",
        ),
        ({"verifier": "math", "answer": "(" * 400 + "1" + ")" * 400}, "allowed: a mathematical"),
        (
            {"verifier": "countdown", "answer": "23"},
            "answer='23', allowed: numbers -> target, as in 3 4 5 -> 23",
        ),
        ({"verifier": "sudoku", "answer": "1234"}, "answer='1234', allowed: 16 or 81 digits"),
        ({"answer": ""}, "answer='', allowed: a text"),
        ({"answer": 5}, "answer=5, allowed: a text"),
        ({"answer": None}, "answer=None, allowed: a text"),
        ({"answer": "\ud800"}, r"answer='\ud800', allowed: a text"),
        ({"prompt": ["1 + 1?"]}, "prompt=['1 + 1?'], allowed: a text"),
        ({"prompt": " "}, "prompt=' ', allowed: a text"),
    ],
)
def test_unusable_problems_are_named(row, message):
    weights = (("verified", 1.0),)
    problems = [PROBLEM, PROBLEM | row, PROBLEM]
    ((number, fault),) = named.unusable(problems, weights).items()
    assert number == 1 and message in fault
    with pytest.raises(ValueError) as refused:
        named.require(problems, weights)
    assert str(refused.value) == f"problems[1].{fault}"


def test_a_reward_of_every_problem_reads_every_answer():
    problems = [PROBLEM | {"answer": r"\boxed{}"}, PROBLEM]
    assert named.unusable(problems, (("verified", 1.0),)) == {}
    assert list(named.unusable(problems, (("math", 1.0),))) == [0]
    assert named.unusable([PROBLEM | {"answer": ""}], (("format", 1.0),)) == {}


@given(st.decimals(allow_nan=False, allow_infinity=False, places=3))
@settings(deadline=None)
def test_plain_numbers_are_read_without_asking(number):
    text = str(number)
    assert equivalence.shared().reads(text) and named.equivalent(reasoned("", text), text)


def test_require_starts_what_math_needs():
    named.require([PROBLEM | {"verifier": "math"}], (("verified", 1.0),))


def test_require_tries_the_sandbox_when_code_would_run():
    named.require([PROBLEM | {"verifier": "code", "answer": "f()"}], (("verified", 1.0),))
