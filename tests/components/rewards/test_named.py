"""Rewards of single answers, each by hand."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components import coerce
from components.data import conversations
from components.rewards import named
from model.tokenizer import (
    BEGIN_SOLUTION,
    BEGIN_THOUGHT,
    END_SOLUTION,
    END_THOUGHT,
    EOS,
    EOT,
    reasoned,
)

GOOD = reasoned("1+1=2", " 2 ")


def test_exact():
    assert named.exact(GOOD, "2") == 1.0
    assert named.exact(GOOD, "3") == 0.0
    assert named.exact("2", "2") == 0.0, "an answer outside the delimiters is none"


@pytest.mark.parametrize("solution", ["x < 5", "a <| b |> c", "1 < 2 <|", "<|mdm_mask|>", "[1, 2]"])
def test_a_solution_is_any_text(solution):
    assert named.solution(reasoned("2 < 3", f"\n\n{solution}\n")) == solution
    assert named.exact(reasoned("2 < 3", solution), solution) == 1.0


def test_numbers_are_equal_to_math_alone():
    given = reasoned("", "1,200")
    assert named.exact(given, "1200") == 0.0
    assert named.equivalent(given, "1200") == 1.0


OPEN_THOUGHTS = (
    "<|begin_of_thought|>\n\nt\n\n<|end_of_thought|>\n\n"
    "<|begin_of_solution|>\n\n7\n\n<|end_of_solution|>"
)


@pytest.mark.parametrize(
    "response",
    [
        OPEN_THOUGHTS,
        f"\n {OPEN_THOUGHTS} \n\n",
        f"{OPEN_THOUGHTS}{EOT}{EOS}{EOS}",
        f"{OPEN_THOUGHTS}\n{EOT}\n",
        reasoned("2 < 3", "a <| b"),
        GOOD.replace(BEGIN_SOLUTION, f"\u2003\t\r\n{BEGIN_SOLUTION}"),
    ],
)
def test_white_space_is_no_fault_of_format(response):
    assert named.well_formed(response) == 1.0


@pytest.mark.parametrize(
    "response",
    [
        f"{GOOD} and more",
        f"{GOOD}{EOT}and more",
        f"{GOOD}.",
        f"Well: {GOOD}",
        GOOD.replace(BEGIN_SOLUTION, f"so {BEGIN_SOLUTION}"),
        GOOD + GOOD,
        f"{GOOD}{END_SOLUTION}",
        reasoned(BEGIN_THOUGHT, "2"),
        reasoned("1+1=2", f"2{END_THOUGHT}"),
        GOOD.removesuffix(END_SOLUTION),
    ],
)
def test_all_else_beside_thought_and_solution_is(response):
    assert named.well_formed(response) == 0.0


@pytest.mark.parametrize(
    "completion",
    [OPEN_THOUGHTS, "<think>t</think>7", "<think>\n\nt\n</think>\n\nx < 5", f" {OPEN_THOUGHTS}\n"],
)
def test_what_sft_teaches_is_well_formed(completion):
    row = {"prompt": "A", "completion": completion}
    *_, answer = conversations.conversation(row)["messages"]
    assert named.well_formed(answer["content"]) == 1.0


def test_well_formed():
    assert named.well_formed(GOOD) == 1.0
    assert named.well_formed("2") == 0.0
    assert named.well_formed(GOOD.replace(END_THOUGHT, "")) == 0.0
    assert named.well_formed(GOOD.replace(BEGIN_SOLUTION, "", 1)) == 0.0


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
        (f"{'9' * 5000}+1=1", 0.0),
        (f"1+1={'9' * 5000} 1+1=2", 1.0),
        ("", 0.0),
    ],
)
def test_equations(thought, share):
    assert named.equations(reasoned(thought, "2")) == share


def test_equations_of_the_solution_do_not_count():
    assert named.equations(reasoned("1+1=3", "1+1=2")) == 0.0


def test_solution_is_needed_by_every_verifier():
    """An empty answer, or one without delimiters, is worth nothing, by definition."""
    for response in ("", " ", "2", reasoned("1+1=2", ""), reasoned("", " ")):
        for verifier, answer in (("exact", "2"), ("math", "2"), ("code", "assert f() == 2")):
            problem = {"prompt": "1 + 1?", "answer": answer, "verifier": verifier}
            assert named.is_right(response, problem) is False
            assert named.verified(response, problem) == 0.0


def test_code():
    program = "Here it is.\n```python\ndef f(x):\n    return x + 1\n```\nDone."
    assert named.code(reasoned("", program), "assert f(1) == 2") == 1.0
    assert named.code(reasoned("", program), "assert f(1) == 3") == 0.0
    assert named.code(reasoned("", "f = abs"), "assert f(-1) == 1") == 1.0
    assert named.code(program, "assert f(1) == 2") == 0.0, "not delimited"


@pytest.mark.parametrize(
    ("tokens", "expected"), [(0, 0), (80, 0), (90, -0.5), (95, -0.75), (100, -1), (1000, -1)]
)
def test_overlong(tokens, expected):
    assert named.overlong(tokens, limit=100, buffer=20) == expected


PROBLEM = {"prompt": "1 + 1?", "answer": "2", "verifier": "exact", "tokens": 90, "max_tokens": 100}


def test_score_weighs_every_named_reward():
    weights = (("verified", 1.0), ("math", 2.0), ("format", 0.5), ("equations", 4), ("overlong", 8))
    total, parts = named.score(GOOD, PROBLEM, weights)
    assert parts == {"verified": 1, "math": 1, "format": 1, "equations": 1, "overlong": -0.5}
    assert total == 1 + 2 + 0.5 + 4 - 4


@given(st.text(), st.integers(0, 200))
@settings(deadline=None)
def test_score_is_finite_and_bounded_for_any_text(response, tokens):
    weights = (("verified", 1.0), ("format", 1.0), ("equations", 1.0), ("overlong", 1.0))
    total, parts = named.score(response, PROBLEM | {"tokens": tokens}, weights)
    assert -1 <= total <= 3
    assert all(-1 <= part <= 1 for part in parts.values())


def test_an_unknown_verifier_is_refused():
    for verifier in ("guess", None, ["math"]):
        with pytest.raises(ValueError, match=r"verifier=.*, allowed: exact, math, code, countdown"):
            named.is_right(GOOD, PROBLEM | {"verifier": verifier})


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_rewards_that_are_no_number_name_reward_and_problem(value, monkeypatch):
    monkeypatch.setitem(named.NAMED, "verified", lambda response, problem: value)
    with pytest.raises(ValueError, match=rf"reward verified={value} of problem '1 \+ 1\?'"):
        named.score(GOOD, PROBLEM, (("verified", 1.0),))


def test_a_total_that_is_no_number_is_refused():
    with pytest.raises(ValueError, match="reward total=inf of problem"):
        named.score(GOOD, PROBLEM, (("exact", 1.7e308), ("format", 1.7e308)))


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (
            (),
            "weights of some of verified, exact, math, code, countdown, sudoku, format, equations",
        ),
        ((("exakt", 1.0),), r"rewards\[0\]\[0\]='exakt', allowed: verified, exact, math"),
        ((("exact", 1.0), ("exact", 2.0)), r"rewards\[0\]\[0\]='exact', allowed: each reward once"),
        ((("exact", math.nan),), r"rewards\[0\]\[1\]=nan, allowed: a finite number"),
    ],
)
def test_weights_are_checked(weights, message):
    with pytest.raises(ValueError, match=message):
        named.score(GOOD, PROBLEM, weights)


def test_weights_fit_a_configuration():
    """A list of pairs in JSON becomes what `score` takes, by the same check as every field."""
    hint = tuple[tuple[str, float], ...]
    weights = coerce.value(hint, [["verified", 1], ["format", 0.5]], "rewards")
    assert named.score(GOOD, PROBLEM, weights).total == 1.5


def test_lengths_must_be_given():
    problem = {"prompt": "", "answer": "2", "verifier": "exact"}
    with pytest.raises(ValueError, match="tokens=None"):
        named.score(GOOD, problem, (("overlong", 1.0),))


@pytest.mark.parametrize(
    ("verifier", "puzzle", "right", "wrong"),
    [
        ("countdown", "3 4 5 -> 23", "4 * 5 + 3", "4 * 5 + 3 + 0"),
        ("sudoku", "1204340021434301", "1234\n3412\n2143\n4321", "1234\n3412\n2143\n4312"),
    ],
)
def test_puzzles_are_judged_by_checking(verifier, puzzle, right, wrong):
    problem = {"prompt": "?", "answer": puzzle, "verifier": verifier}
    assert named.unusable([problem], (("verified", 1.0),)) == {}
    for solution, value in ((right, 1.0), (wrong, 0.0), (puzzle, 0.0), ("", 0.0)):
        response = reasoned("t", solution)
        assert named.is_right(response, problem) == bool(value)
        weights = (("verified", 1.0), (verifier, 0.5))
        assert named.score(response, problem, weights) == (
            1.5 * value,
            dict.fromkeys(("verified", verifier), value),
        )
    assert named.verified(right, problem) == 0.0, "no delimiters"
