"""Formulas that are equal by value, through math-verify in its process."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from components.rewards import named
from model.tokenizer import reasoned


@pytest.mark.parametrize(
    ("answer", "given", "equal"),
    [
        ("42", "42", True),
        ("42", r"\boxed{42}", True),
        ("42", "$x = 42$", True),
        ("42", "43", False),
        ("1/2", "0.5", True),
        (r"\frac{1}{2}", "2/4", True),
        ("x^2 + 2x + 1", "(x + 1)^2", True),
        ("x^2 + 2x + 1", "(x + 1)^3", False),
        ("1,000", "1000", True),
        ("3", "1, 2, 3", False),
        ("42", "words only", False),
        (r"\$5", "5", True),
        (r"\$5", r"\$5", True),
        (r"\$5", "6", False),
        ("5", r"\boxed{\$5}", True),
        ("5", r"It costs \$5.", True),
        (r"\$32{,}348", "32,348", True),
        (r"-\$5.50", "-5.5", True),
        ("-$5", "-5", True),
        ("$5", "5", True),
        ("$x=5$", "5", True),
        (r"\$\frac{1}{2}", "$0.5$", True),
        (r"5\text{ dollars}", "5 dollars", True),
        ("€5", "£5", True),
        (r"50\%", "50", True),
        (r"50\%", "1/2", True),
        (r"90^\circ", "90", True),
        (r"3\text{ cm}", "3 cm", True),
    ],
)
def test_equivalent(answer, given, equal):
    assert named.equivalent(reasoned("", given), answer) == float(equal)


@pytest.mark.parametrize(
    "given",
    [
        "9**9**9**9",
        "9^{9^{9^{9}}}",
        "10^{10^{10}}",
        "1000000!",
        r"\frac{" * 90 + "1" + "}{2}" * 90,
        "(" * 400 + "1" + ")" * 400,
        r"\sqrt{" * 10_000 + "x" + "}" * 10_000,
        "\\",
        "$" * 50,
        "\x00\ud800",
    ],
)
def test_hostile_formulas_return(given):
    assert named.equivalent(reasoned("", given), "42") == 0.0
    assert named.equivalent(reasoned("", "42"), "42") == 1.0, "the next one is judged"


def test_equivalent_in_threads():
    """math-verify by itself refuses to work outside the main thread."""
    with ThreadPoolExecutor(4) as pool:
        given = [reasoned("", f"{number}/2") for number in range(8)]
        found = list(pool.map(named.equivalent, given, ["1.5"] * 8))
    assert found == [0, 0, 0, 1, 0, 0, 0, 0]


def test_unreadable_reference_is_refused():
    with pytest.raises(ValueError, match="allowed: a mathematical expression"):
        named.equivalent(reasoned("", "1"), "")
