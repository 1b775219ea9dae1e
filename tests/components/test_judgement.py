"""One answer, one judgement: what evaluation calls correct is what rewards call verified."""

import json

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from lm_eval.api.model import LM

from components.data import dataset as data
from components.evaluate import forms, results, task, tasks
from components.evaluate.config import EvaluateConfig
from components.rewards import named
from model import sampler
from model.tokenizer import EOT, MASK, REASONING, reasoned


class Speaker(LM):
    """Says the same thing to whoever asks, in turn."""

    tokenizer_name = "speaker"

    def __init__(self, responses):
        super().__init__()
        self.responses = responses

    def generate_until(self, requests):
        """What it says, once it has been asked in plain text."""
        assert len(requests) == len(self.responses)
        return self.responses

    def loglikelihood(self, requests):
        """Nobody asks for it."""
        raise NotImplementedError

    loglikelihood_rolling = loglikelihood


def ask(responses, problems, form, workers):
    """The samples of problems that a speaker answers."""
    config = EvaluateConfig(form=form, reward_workers=workers)
    suite = tasks.suite(config, problems)
    return results.samples(results.ask(Speaker(responses), suite, config), suite, config)


PIECES = [
    *("[1, 2]", "{}", "{{", "}}", "{% if %}", "2024-01-02", "1,200", "1200", "0.5", "1/2", "null"),
    *("nan", "true", "<", "<|", "|>", "x < 5", r"\$5", "$", "\\", "\u2028", "\x85", "\x00", "\r\n"),
    *("['red']", '"', "=", " ", "\n", *REASONING, EOT, MASK),
]
TEXT = st.text() | st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=4).map("".join)


@st.composite
def exchanges(draw):
    """A problem and a response: any solution, and often the right one."""
    answer = draw(TEXT)
    solution = draw(st.sampled_from([answer, f" {answer}\n"]) | TEXT)
    response = draw(st.sampled_from([reasoned(draw(TEXT), solution), solution]))
    verifier = draw(st.sampled_from(["exact", "exact", "math"]))
    return {"prompt": draw(TEXT), "answer": answer, "verifier": verifier}, response


@given(
    exchanges=st.lists(exchanges(), min_size=1, max_size=8), form=st.sampled_from(["chat", "text"])
)
@settings(deadline=None, max_examples=60)
def test_evaluation_and_reward_agree_on_any_text(tmp_path_factory, exchanges, form):
    """Through the file of the data set and lm_eval's own loop."""
    folder = tmp_path_factory.mktemp("rows")
    data.write(folder, "test", [problem for problem, _ in exchanges])
    problems = data.read(folder, "test")
    faults = named.unusable(problems, task.VERDICT)
    usable = [row for number, row in enumerate(problems) if number not in faults]
    responses = [text for number, (_, text) in enumerate(exchanges) if number not in faults]
    assume(usable)
    found = ask(responses, usable, form, workers=2)
    for row, problem, response in zip(found, usable, responses, strict=True):
        expected = named.verified(forms.delimited(response, problem, form), problem)
        assert row["correct"] == bool(expected)
        assert (row["prompt"], row["response"]) == (problem["prompt"], response)
        json.dumps(row, ensure_ascii=False).encode()


@pytest.mark.parametrize(
    ("answer", "verifier", "solution", "correct"),
    [
        ("x < 5", "exact", "x < 5", True),
        ("[1,2]", "exact", "[1,2]", True),
        ("{{ a }}", "exact", "{{ a }}", True),
        ("1,200", "exact", "1200", False),
        ("1,200", "math", "1200", True),
        ("(x+1)^2", "math", "x^2+2x+1", True),
        (r"\$5", "math", "5.0", True),
        ("assert f(2) == 4", "code", "~~~py\ndef f(x):\n    return 2 * x\n~~~", True),
        ("assert f(2) == 5", "code", "~~~py\ndef f(x):\n    return 2 * x\n~~~", False),
    ],
)
def test_verdicts(answer, verifier, solution, correct):
    problem = {"prompt": "{% raw %}", "answer": answer, "verifier": verifier}
    response = reasoned("t", f"\n\n{solution}\n\n")
    (row,) = ask([response], [problem], "chat", workers=1)
    assert row["correct"] is correct and row["solution"] == solution


def test_verdicts_keep_the_order():
    problem = {"prompt": "1 + 1?", "answer": "2", "verifier": "exact"}
    answers = [reasoned("", str(number)) for number in range(4)]
    rows = ask(answers, [problem] * 4, "chat", workers=3)
    assert [row["correct"] for row in rows] == [False, False, True, False]


@pytest.mark.parametrize(
    ("text", "result"),
    [
        (" 7+9=16 4+3+1=8 = 86", "86"),
        ("86", "86"),
        (" 86 \nand 5 = 7", "86"),
        ("\n\n x = 5\nx = 6", "5"),
        ("The answer is 5.", "The answer is 5."),
        ("1 + 1 =", ""),
        (" \n", ""),
        ("", ""),
    ],
)
def test_last_result(text, result):
    assert forms.last_result(text) == result


def test_tests_of_code_run_the_whole_text():
    problem = {"prompt": "f", "answer": "assert f(2) == 4", "verifier": "code"}
    text = "def f(x):\n    y = 2 * x\n    return y\n"
    (row,) = ask([text], [problem], "text", workers=1)
    assert row["correct"] and row["solution"] == text.strip()


def test_a_plain_problem_is_its_own_text(tokenizer):
    """No template and no control token, whatever the text spells; documents begin like that."""
    problem = {"prompt": "1 + 1 <|eot_id|> ="}
    ids = forms.tokens(tokenizer, problem, "text")
    assert tokenizer.decode(ids) == problem["prompt"]
    assert not set(ids) & set(tokenizer.all_special_ids)
    assert forms.tokens(tokenizer, problem, "chat") != ids


def test_a_system_message_is_asked_too(tokenizer):
    problem = {"prompt": "1 + 1 =", "system": "Add."}
    assert tokenizer.decode(forms.tokens(tokenizer, problem, "text")) == "Add.\n\n1 + 1 ="
    chat = tokenizer.decode(forms.tokens(tokenizer, problem, "chat"))
    assert "system<|end_header_id|>\n\nAdd.<|eot_id|>" in chat and "1 + 1 =<|eot_id|>" in chat


def test_what_stands_behind_a_stop_token_is_not_said():
    assert sampler.before_stop([5, 6, 2, 7, 3], [3, 2]) == [5, 6]
    assert sampler.before_stop([5, 6], [2]) == [5, 6]
    assert sampler.before_stop([2], [2]) == []
