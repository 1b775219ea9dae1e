"""The page and the table from figures by hand; real ones go through the end-to-end test."""

import json
from xml.etree import ElementTree

from components import written
from components.report import page, table

ROW = {
    "stage": "sft",
    "steps": 3,
    "loss": 0.25,
    "accuracy": None,
    "tokens_per_second": 1234.5,
    "seconds": 2.0,
    "peak_memory_bytes": 2**30,
}


def score(value, error, problems=200):
    """A task's score as results.json has it."""
    return {"score": value, "standard_error": error, "problems": problems}


REPORT = {
    "title": "Sums & <more>",
    "verdict": "accuracy rises at every step",
    "evaluations": {
        "base": {"accuracy": 0.0, "correct": 0, "problems": 200, "standard_error": 0.0},
        "sft": {"accuracy": 0.62, "correct": 124, "problems": 200, "standard_error": 0.03},
    },
    "tasks": {
        "test": {"base": score(0.0, 0.0), "sft": score(0.62, 0.03)},
        "gsm8k": {"base": score(0.5, 0.1), "sft": score(0.99, 0.02)},
        "wikitext": {"base": score(31.5, None), "sft": score(0.25, None)},
    },
    "table": [ROW],
    "total_seconds": 2.0,
    "peak_memory_bytes": 2**30,
}
TRACE = {
    "prompt": "1 + 1 =",
    "answer": "2",
    "correct": True,
    "passes": [[None, None], ["<b>", None], ["<b>", "2"]],
}
RECORD = {
    "git_commit": "0" * 40,
    "packages": {},
    "python": "3.11",
    "created": "today",
    "lineage": [{"stage": "sft", "output": "trained", "fingerprint": "f" * 64, "config": {}}],
}


def rendered():
    curves = {"sft": [{"step": step, "loss": 1 / step} for step in range(1, 4)]}
    return page.render_page(REPORT, curves, [TRACE], RECORD)


def test_a_line_of_a_trace_ends_at_a_line_feed_alone(tmp_path):
    rows = [{**TRACE, "prompt": f"a{sign}b"} for sign in "\u2028\u2029\x85\x0b\x1c\r"]
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    (tmp_path / "traces.jsonl").write_text("".join(lines), encoding="utf-8")
    assert written.lines(tmp_path / "traces.jsonl") == rows


def test_page_is_well_formed_and_escapes():
    text = rendered()
    body = text[text.index("<body>") : text.index("</html>")]
    found = ElementTree.fromstring(body)
    assert found.find("h1").text == "Sums & <more>"
    assert "<b>" not in text


def test_page_draws_every_figure():
    text = rendered()
    assert "62.0% (124/200)" in text and "0.0% (0/200)" in text
    assert text.count("<polyline") == 2
    assert text.count("class='mask'") == 3 and text.count("class='new'") == 2


def test_curve_of_one_step():
    curves = {"sft": [{"step": 1, "loss": 0.0}]}
    assert "<polyline" in page.render_page(REPORT, curves, [], RECORD)


def test_a_title_is_no_markup():
    head, _, text = table.markdown(REPORT).partition("\n\n")
    assert head == r"# Sums & \<more\>"
    assert "| sft | 3 | 0.2500 |  | 1234 | 2.0 | 1024 MB |" in text


def test_each_task_by_stage_with_its_interval():
    text = table.markdown(REPORT)
    assert "| task | base | sft |" in text
    assert "| test | 0.0% (0.0 to 0.0) | 62.0% (56.1 to 67.9) |" in text
    assert "| gsm8k | 50.0% (30.4 to 69.6) | 99.0% (95.1 to 100.0) |" in text
    assert "| wikitext | 31.5 | 25.0% |" in text
    assert "gsm8k" in rendered() and "99.0% (198/200)" in rendered()


def test_table_lines_up():
    lines = table.render(REPORT).splitlines()
    assert lines[2].split() == ["sft", "3", "0.2500", "1234", "2.0", "1024", "MB"]
    assert len({len(line) for line in lines[:5]}) == 1
    assert lines[-1] == "exact match: base 0.0% -> sft 62.0%"
