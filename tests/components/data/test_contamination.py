"""What of a test set stands in training data is named in the report and is not trained on."""

import json
import random

from components import artifact
from components.data import contamination
from components.data import dataset as data
from components.data.contamination import TestSet
from components.data.token_shards import Shards
from components.drawing import escape_markdown
from model.tokenizer import load_tokenizer
from tests.components.corpora import WORDS, download, prose, write_jsonl

QUESTION = "Ada walks forty steps to the sea and thirty more along the shore, how many in all?"
LINES = [prose(30, 1000 + seed).replace("\n", " ") for seed in range(20)]
WHOLE = {"min_tokens": 1, "long_share": 0, "quality": False}


def held_out(*prompts, **beside):
    rows = [{"prompt": prompt, "answer": "1", "verifier": "math", **beside} for prompt in prompts]
    return TestSet(lambda: iter(rows), ["exam"] * len(rows))


def asked(prompt, **beside):
    return {"prompt": prompt, "answer": "1", "verifier": "math", **beside}


def test_through_the_stage(tmp_path, base):
    """A question in a book, a conversation, a pair and a problem."""
    book = f"{prose(900, 1)}\n{QUESTION.upper()}\n{prose(900, 2)}"
    other = "Is the sea far?"
    rows = {
        "pretrain": [{"text": book}, {"text": f"{QUESTION} Seventy."}, {"text": prose(90, 3)}],
        "sft": [{"prompt": f"Think. {QUESTION}", "completion": "70"}, asked(other)],
        "preferences": [
            {"prompt": text, "chosen": "7", "rejected": "8"} for text in (QUESTION, other)
        ],
        "problems": [asked(QUESTION), asked(other), asked("2 + 5 ="), asked("2 - 5 =")],
        "test": [asked(QUESTION), asked(LINES[0]), asked("2 + 5 =")],
    }
    config = {
        part: [{"location": write_jsonl(tmp_path / f"{part}.jsonl", lines)}]
        for part, lines in rows.items()
    }
    dataset, report = download(tmp_path, base, sample=WHOLE, **config)
    label = str(tmp_path / "test.jsonl")
    for part, kept in (("sft", 1), ("preferences", 1), ("problems", 2)):
        assert report[part]["documents"] == kept == len(data.read(dataset, part))
        assert report[part]["dropped"] == {f"in_test:{label}": len(rows[part]) - kept}
    assert [row["prompt"] for row in data.read(dataset, "problems")] == [other, "2 - 5 ="]
    texts = report["pretrain"]["samples"]
    assert report["pretrain"]["dropped"] == {f"in_test:{label}": 1}
    assert report["pretrain"]["documents"] == 3 and prose(90, 3) in texts
    tokenizer = load_tokenizer(tmp_path / "model")
    shards = Shards(dataset / "pretrain", tokenizer)
    assert sum(shards.lengths) > 1500
    assert not any("walks forty steps" in text.lower() for text in texts)
    assert report["pretrain"]["test_problems"] == {label: 1}
    assert report["problems"]["test_problems"] == {label: 2}
    (match,) = report["sft"]["test_matches"]
    assert match["test"] == f"{label}, test.jsonl:1" and match["at"].endswith("sft.jsonl:1")
    assert "ada walks forty steps" in match["words"]
    page = (dataset / "report.md").read_text()
    cell = escape_markdown(label)
    assert f"| {cell} | 2 |" in page and f"| {cell}, test.jsonl:1 |" in page
    summary = artifact.verify(dataset)["summary"]
    assert summary["test_problems"]["problems"] == {label: 2}


def test_tests_of_other_evaluations(tmp_path, base):
    """What is held out is no part of the dataset; the report names it beside the test part."""
    lines = [asked(text) for text in (QUESTION, *LINES[:3])]
    exam = write_jsonl(tmp_path / "exam.jsonl", [asked(QUESTION), asked(LINES[2])])
    own = write_jsonl(tmp_path / "test.jsonl", [asked(LINES[0])])
    config = {
        "problems": [{"location": write_jsonl(tmp_path / "problems.jsonl", lines)}],
        "held_out": [{"location": exam}],
    }
    for number, test in enumerate(({"test": [{"location": own}]}, {})):
        dataset, report = download(tmp_path / f"{number}", base, **config, **test)
        left = LINES[1:2] if test else LINES[:2]
        assert [row["prompt"] for row in data.read(dataset, "problems")] == left
        assert report["problems"]["test_problems"] == {exam: 2, **({own: 1} if test else {})}
        assert report["problems"]["test_matches"][0]["test"] == exam
        assert (dataset / "test.jsonl").exists() == bool(test)


def test_it_may_be_switched_off(tmp_path, base):
    location = write_jsonl(tmp_path / "rows.jsonl", [asked(QUESTION)])
    parts = {part: [{"location": location}] for part in ("problems", "test")}
    _, report = download(tmp_path, base, decontaminate=False, **parts)
    assert report["problems"]["documents"] == 1


def test_of_a_dataset_directory(tmp_path, base):
    """Its texts are kept beside the tokens, both without the question."""
    rows = {
        "pretrain": [{"text": f"{prose(400, 1)}\n{QUESTION}\n{prose(400, 2)}"}],
        "sft": [{"prompt": "a", "completion": "b"}],
        "preferences": [{"prompt": "a", "chosen": "b", "rejected": "c"}],
        "problems": [asked("a")],
        "test": [asked(QUESTION)],
    }
    for part, lines in rows.items():
        write_jsonl(tmp_path / "ready" / f"{part}.jsonl", lines)
    dataset, report = download(tmp_path, base, dataset=str(tmp_path / "ready"))
    texts = [row["text"] for row in data.read(dataset, "pretrain")]
    assert len(texts) == report["pretrain"]["documents"] == 2
    assert "forty" not in "".join(texts)


def test_a_long_document_loses_pieces_alone():
    """Twenty questions in one book, each with 200 characters on either side."""
    parts = [prose(200, seed) for seed in range(21)]
    book = "".join(f"{part}\n{line}\n" for part, line in zip(parts, [*LINES, ""], strict=True))
    pieces, matches = held_out(*LINES).cut(book)
    assert len(pieces) == 21 and {match.row for match in matches} == set(range(1, 21))
    assert not any(line in piece for line in LINES for piece in pieces)
    whole = set(book.split())
    assert all(set(piece.split()) <= whole for piece in pieces), "cut between words"
    lost = len(book) - sum(map(len, pieces))
    assert lost < 20 * (max(map(len, LINES)) + 2 * contamination.AROUND + 2)


def test_short_pieces_go():
    pieces, (match,) = held_out(QUESTION).cut(f"{'x ' * 90}{QUESTION}{' y' * 90}")
    assert pieces == [] and match.source == "exam"


def test_runs_that_many_texts_hold_say_nothing():
    """But a copy is no other text, and a test's whole prompt is never common."""
    rule = "Put the final answer into a box and think step by step before you say it. "
    held = held_out(rule + QUESTION)
    verdicts = [held.match("sft", asked(f"{rule}{prose(20, seed)}")) for seed in range(14)]
    assert all(verdicts[:10]) and not any(verdicts[10:])
    copies = held_out(rule + QUESTION)
    again = asked(f"{rule}{prose(20, 0)}")
    assert all(copies.match("sft", again) for _ in range(30))
    assert held.match("sft", asked(rule + QUESTION))


def test_an_instruction_before_every_test_prompt_is_no_question():
    rule = "Put the final answer into a box and think step by step before you say it. "
    held = held_out(*(f"{rule}{line}" for line in LINES))
    assert held.match("sft", asked(f"{rule}{prose(20, 0)}")) is None
    assert held.match("sft", asked(LINES[3])).row == 4


def test_a_problem_that_two_tests_hold_counts_once():
    """As MATH's test holds those of MATH-500: six prompts share the words, not twelve."""
    shared = "Find the sum of all positive whole numbers that leave the rest one "
    prompts = [f"{shared}{line}" for line in LINES[:6]]
    held = held_out(*prompts, *prompts)
    assert held.match("sft", asked(f"{shared}{prose(20, 0)}")).row == 1


def test_the_length_of_a_run():
    """The 5th percentile of the prompts' lengths, at least 8 and at most 13 words."""
    for words, length in ((3, 8), (8, 8), (10, 10), (13, 13), (40, 13)):
        assert held_out(*(" ".join(WORDS[:words]) for _ in range(20))).length == length
    mixed = [" ".join(WORDS[:9])] * 2 + [" ".join(WORDS[:60])] * 18
    assert held_out(*mixed).length == 9
    assert held_out(*mixed[1:], mixed[-1]).length == 13


def test_signs_do_not_hide_a_question_nor_make_two_alike():
    held = held_out(QUESTION, "What is 2 + 5?")
    words = " ".join(QUESTION.split())
    assert held.match("sft", asked(words.replace(" ", "\n ").replace(",", " --").upper()))
    assert held.match("sft", asked("what is  2 + 5?"))
    assert held.match("sft", asked("What is 2 - 5?")) is None


def test_an_instruction_does_not_hide_a_short_question():
    """Words tell little of it, but the whole question stands behind a blank line."""
    held = held_out("Find $2+5$.", "Name the\n\nlargest prime below 9.")
    rule = "Think step by step.\nAnswer in a box.\n\n"
    assert held.match("problems", asked(f"{rule}find  $2+5$.")).row == 1
    assert held.match("sft", asked(f"{rule}Name the\n\nlargest prime below 9.")).row == 2
    for other in (f"{rule}Find $2-5$.", f"Find $2+5$.\n\n{rule}", "Do not find $2+5$."):
        assert held.match("problems", asked(other)) is None, other
    held.match("problems", asked("\n\n" * 500_000))


def test_letters_that_change_their_length():
    """Lower case of the dotted capital I has two characters."""
    text = f"{'İ' * 300} {QUESTION} {prose(300, 1)}"
    pieces, _ = held_out(QUESTION).cut(text)
    assert len(pieces) == 1 and "forty" not in pieces[0] and pieces[0] in text


def test_puzzles_are_compared_as_puzzles():
    puzzle = {"verifier": "countdown", "answer": "3 4 5 -> 23"}
    held = held_out("Make 23 of these.", **puzzle)
    same = {"verifier": "countdown", "answer": "5, 3, 4 -> 23"}
    assert held.match("problems", asked("Reach 23!", **same)).words == "3 4 5 -> 23"
    assert held.match("problems", asked("Reach it!", **{**same, "answer": "5 3 4 -> 17"})) is None
    grid = "1234341221434321"
    held = held_out("Fill in.", verifier="sudoku", answer="1204340021434301")
    for cells, is_same in (("1030301201404020", True), ("2134431212433421", False)):
        row = asked("Solve it.", verifier="sudoku", answer=cells)
        assert (held.match("problems", row) is not None) == is_same, (grid, cells)


def test_memory_is_bounded(monkeypatch):
    """Of a large test set every few runs are enough to know a question again."""
    monkeypatch.setattr(contamination, "GRAMS", 50)
    rng = random.Random(0)
    prompts = [" ".join(rng.choices(WORDS, k=60)) for _ in range(20)]
    held = held_out(*prompts)
    assert len(held.runs) <= 20 * (48 // held.step + 1) < 300
    assert all(held.cut(f"{prose(200, 0)}\n{prompt}")[1] for prompt in prompts)
    assert json.dumps(held.cut(prose(200, 0))[1]) == "[]"
