"""Kubeflow's UI shows a page in a frame 450 pixels wide: nothing of it may be cut there."""

import copy

import pytest

from components.evaluate import display
from components.report import page as report
from tests.browser import evaluate, needs_chromium, width
from tests.components.test_report import RECORD, REPORT, ROW, TRACE

FRAME = 450
EDGE = "Math.max(...[...page.querySelectorAll('td, th, h1, h3, p, summary, svg')]"
EDGE += ".map(element => element.getBoundingClientRect().right))"
WORDS = ["step", "therefore", "<|mdm_mask|>", "1", "internationalization"]
TASK = {"score": 0.5, "standard_error": 0.1, "problems": 8, "metric": "exact_match,none"}
TASK |= {"higher_is_better": True}


def trace():
    """An answer of 64 tokens in four passes, as one of a large model is."""
    tokens = [WORDS[number % len(WORDS)] for number in range(64)]
    passes = [[token if at < 16 * count else None for at, token in enumerate(tokens)]
              for count in range(5)]  # fmt: skip
    return {**TRACE, "prompt": "What_is_" * 30, "passes": passes}


def of_a_report():
    content = copy.deepcopy(REPORT)
    content["table"] = [{**ROW, "stage": "evaluate pretrain", "accuracy": 0.5} for _ in range(9)]
    content["tasks"]["minerva_math_" * 4] = content["tasks"]["gsm8k"]
    curves = {"pretrain": [{"step": step, "loss": 1 / step} for step in range(1, 4)]}
    return report.render_page(content, curves, [trace()], RECORD)


def of_an_evaluation():
    content = {"tasks": {"minerva_math_" * 4: TASK}, "published": None, "packages": {"a": "1"}}
    content |= {name: "x" * 80 for name in display.CIRCUMSTANCES}
    return display.page(content, [{**trace(), "correct": False, "solution": None}])


@needs_chromium
@pytest.mark.parametrize("page", [of_a_report, of_an_evaluation])
def test_nothing_is_cut_in_the_frame(tmp_path, page):
    file = tmp_path / "page.html"
    file.write_text(page(), encoding="utf-8")
    assert width(file, FRAME) <= FRAME
    assert evaluate(file, EDGE, window=FRAME) <= FRAME


@needs_chromium
def test_a_wide_window_keeps_a_pass_in_one_row(tmp_path):
    """The columns of a trace are the places of its tokens."""
    file = tmp_path / "page.html"
    short = {**trace(), "passes": [passes[:16] for passes in trace()["passes"]]}
    content = {"tasks": {"test": TASK}, "published": None, "packages": {}}
    content |= {name: "x" for name in display.CIRCUMSTANCES}
    file.write_text(display.page(content, [{**short, "solution": None}]), encoding="utf-8")
    rows = "[...page.querySelectorAll('.trace tr')].map(row => new Set([...row.cells]"
    rows += ".map(cell => Math.round(cell.getBoundingClientRect().top))).size)"
    assert set(evaluate(file, rows, window=1400)) == {1}
