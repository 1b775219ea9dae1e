"""Files of prompts through the real command line: order, resumption, and whose answers they are."""

import fcntl

import pytest

from pipelines import asking
from tests.pipelines.test_generate import ROWS, SHORT, read, user, write


def test_a_file(taught, tmp_path, ask):
    """Rows keep their order and fields; batches and auto lengths mix."""
    rows = [
        *ROWS,
        {"prompt": "1 + 1 =", "system": "Add."},
        {"messages": [*user("1"), {"role": "assistant", "content": "2"}, *user("3")]},
    ]
    prompts = write(tmp_path / "prompts.jsonl", rows)
    flags = ["--prompts", prompts, "--batch-size", 3, "--output", tmp_path / "answers.jsonl"]
    done = ask(taught, "--gen-length", "auto", *flags)
    assert done.code == 0 and not done.output
    assert f"{len(rows)} answers; " in done.errors
    found = read(tmp_path / "answers.jsonl")
    assert [
        {name: row[name] for name in given} for row, given in zip(found, rows, strict=True)
    ] == rows
    assert all(row["tokens"] >= 0 and "solution" in row and row["asked"] for row in found)
    assert len({row["asked"] for row in found}) == 1


def test_a_file_whose_rows_do_not_fit_side_by_side(taught, tmp_path, ask):
    """A long prompt and a long canvas would be longer than the context together."""
    rows = [{"prompt": "1 + " * count} for count in (1, 30, 2, 31, 3)]
    prompts = write(tmp_path / "prompts.jsonl", rows)
    flags = [taught, "--gen-length", 20, "--block-length", 4, "--prompts", prompts]
    for size in (1, 2):
        done = ask(*flags, "--batch-size", size, "--output", tmp_path / str(size))
        assert done.code == 0, done.errors
    assert read(tmp_path / "1") == read(tmp_path / "2")


def test_a_second_call_goes_on(taught, tmp_path, ask, monkeypatch):
    """Finished prompts are not asked again, what a kill cut off is; the file is the same."""
    prompts = write(tmp_path / "prompts.jsonl", ROWS)
    flags = [taught, *SHORT, "--temperature", 1, "--batch-size", 2, "--prompts", prompts]
    ask(*flags, "--output", tmp_path / "whole")
    lines = (tmp_path / "whole").read_text().splitlines(keepends=True)
    cut = tmp_path / "cut"
    cut.write_text("".join(lines[:2]) + lines[2][:40])
    counted = []
    ordinary = asking.ask_all
    monkeypatch.setattr(
        asking, "ask_all", lambda *a, **k: counted.append(len(a[1])) or ordinary(*a, **k)
    )
    done = ask(*flags, "--output", cut)
    assert cut.read_text() == (tmp_path / "whole").read_text()
    assert counted == [3] and "5 answers, 2 of them before" in done.errors
    ask(*flags, "--output", cut)
    assert counted == [3] and cut.read_text() == (tmp_path / "whole").read_text()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda flags, rows: flags.extend(["--seed", 3]), "other options"),
        (lambda flags, rows: rows[0].update(prompt="another"), "another prompt"),
        (lambda flags, rows: rows.__delitem__(slice(1, None)), "no answer of theirs"),
    ],
)
def test_answers_of_another_question_are_kept(taught, tmp_path, ask, change, words):
    rows, flags = [dict(row) for row in ROWS], [taught, *SHORT]
    output = ["--prompts", tmp_path / "prompts.jsonl", "--output", tmp_path / "answers"]
    write(tmp_path / "prompts.jsonl", rows)
    ask(*flags, *output)
    before = (tmp_path / "answers").read_text()
    change(flags, rows)
    write(tmp_path / "prompts.jsonl", rows)
    ask(*flags, *output).refused("output=", words)
    assert (tmp_path / "answers").read_text() == before


def test_a_file_that_is_no_answers(taught, tmp_path, ask):
    prompts = write(tmp_path / "prompts.jsonl", ROWS)
    (tmp_path / "notes").write_text("something else\n")
    flags = ["--prompts", prompts, "--output", tmp_path / "notes"]
    ask(taught, *SHORT, *flags).refused("notes:1", "no answer of theirs")
    assert (tmp_path / "notes").read_text() == "something else\n"


def test_two_at_once(taught, tmp_path, ask):
    prompts = write(tmp_path / "prompts.jsonl", ROWS)
    with (tmp_path / "answers").open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        flags = ["--prompts", prompts, "--output", tmp_path / "answers"]
        ask(taught, *SHORT, *flags).refused("another process is writing it")
