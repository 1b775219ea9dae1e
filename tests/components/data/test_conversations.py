"""Conversations, preferences and problems in the usual shapes, and why some are dropped."""

import contextlib
import json

import pytest

from components.data import dataset as data
from components.data.conversations import READS, Unfit, conversation, preference, problem
from components.sft.dialogues import dialogues
from model.tokenizer import encode_answer, encode_chat, reasoned
from tests.components.corpora import download, write_jsonl

ASKED = {"role": "user", "content": "1 + 1 ="}
ANSWERED = {"role": "assistant", "content": "2"}
SYSTEM = {"role": "system", "content": "Be brief."}
TOLD = {"from": "human", "value": "1 + 1 ="}
SAID = {"from": "gpt", "value": "2"}


@pytest.mark.parametrize(
    ("row", "messages"),
    [
        ({"messages": [ASKED, ANSWERED]}, [ASKED, ANSWERED]),
        ({"messages": [SYSTEM, ASKED, ANSWERED]}, [SYSTEM, ASKED, ANSWERED]),
        ({"messages": [ASKED, ANSWERED] * 3}, [ASKED, ANSWERED] * 3),
        ({"conversations": [TOLD, SAID] * 2}, [ASKED, ANSWERED] * 2),
        ({"system": "Be brief.", "conversations": [TOLD, SAID]}, [SYSTEM, ASKED, ANSWERED]),
        ({"system": "", "messages": None, "conversations": [TOLD, SAID]}, [ASKED, ANSWERED]),
        ({"messages": [{**TOLD, "role": None, "content": None}, ANSWERED]}, [ASKED, ANSWERED]),
        ({"prompt": "1 + 1 =", "completion": "2"}, [ASKED, ANSWERED]),
        ({"prompt": [SYSTEM, ASKED], "completion": [ANSWERED]}, [SYSTEM, ASKED, ANSWERED]),
        ({"instruction": "1", "input": "+ 1", "output": "2"}, None),
        ({"question": "1 + 1 =", "response": "2", "system": "Be brief."}, None),
    ],
)
def test_shapes(row, messages):
    found = conversation(row)["messages"]
    if messages is not None:
        assert found == messages
    roles = [message["role"] for message in found if message["role"] != "system"]
    assert roles == ["user", "assistant"] * (len(roles) // 2)
    assert found[-1]["content"] == "2"


def test_instruction_with_input_and_question_with_system():
    (asked, _) = conversation({"instruction": "Add.", "input": "1, 1", "output": "2"})["messages"]
    assert asked["content"] == "Add.\n\n1, 1"
    row = {"question": "1 + 1 =", "response": "2", "system": "Be brief."}
    assert conversation(row)["messages"] == [SYSTEM, ASKED, ANSWERED]


def test_open_thoughts():
    """The shape of OpenThoughts-114k: its own delimiters are the ones that we train."""
    text = "<|begin_of_thought|>\n\n1 and 1\n\n<|end_of_thought|>\n\n<|begin_of_solution|>2"
    row = {"system": "Think.", "conversations": [{"from": "user", "value": "1 + 1 ="}]}
    row["conversations"].append({"from": "assistant", "value": f"{text}<|end_of_solution|>"})
    system, asked, answered = conversation(row)["messages"]
    assert (system["content"], asked) == ("Think.", ASKED)
    assert answered["content"] == f"{text}<|end_of_solution|>"


def test_think_tags_become_delimiters():
    row = {"prompt": "1 + 1 =", "completion": "<think>\n1 and 1\n</think>\n\nIt is 2."}
    assert conversation(row)["messages"][1]["content"] == reasoned("1 and 1", "It is 2.")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"messages": []}, "no_messages"),
        ({"messages": "text"}, "no_messages"),
        ({"messages": [None]}, "no_messages"),
        ({"messages": [ASKED]}, "no_answer"),
        ({"messages": [ANSWERED]}, "roles_out_of_turn"),
        ({"messages": [ASKED, ANSWERED, ASKED]}, "roles_out_of_turn"),
        ({"messages": [ASKED, ASKED, ANSWERED]}, "roles_out_of_turn"),
        ({"messages": [ASKED, ANSWERED, SYSTEM]}, "roles_out_of_turn"),
        ({"messages": [ASKED, {"role": "tool", "content": "x"}]}, "unknown_role"),
        ({"messages": [ASKED, {"role": ["user"], "content": "x"}]}, "unknown_role"),
        ({"messages": [ASKED, {"role": "assistant", "content": "  "}]}, "empty_message"),
        ({"messages": [ASKED, {"role": "assistant", "content": None}]}, "empty_message"),
        ({"prompt": "1 + 1 ="}, "no_answer"),
        ({"prompt": "1 + 1 =", "completion": ""}, "no_answer"),
        ({"completion": "2"}, "no_prompt"),
        ({"other": "column"}, "no_answer"),
    ],
)
def test_conversations_that_do_not_fit(row, reason):
    with pytest.raises(Unfit, match=f"^{reason}$"):
        conversation(row)


PAIR = {"prompt": "1 + 1 =", "chosen": "2", "rejected": "3"}
WRONG = {"role": "assistant", "content": "3"}


@pytest.mark.parametrize(
    "row",
    [
        PAIR,
        {"chosen": [ASKED, ANSWERED], "rejected": [ASKED, WRONG]},
        {"prompt": "1 + 1 =", "chosen": [ANSWERED], "rejected": [WRONG]},
        {"prompt": [ASKED], "chosen": [ANSWERED], "rejected": [WRONG]},
    ],
)
def test_preferences(row):
    assert preference(row) == PAIR


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"rejected": " 2 "}, "identical_pair"),
        ({"chosen": ""}, "no_chosen"),
        ({"rejected": None}, "no_rejected"),
        ({"prompt": "  "}, "no_prompt"),
        ({"chosen": [ASKED, ANSWERED] * 2}, "several_turns"),
        ({"chosen": [ASKED, {**ANSWERED, "content": ""}]}, "empty_message"),
        ({"chosen": [{**ASKED, "content": "1 + 2 ="}, ANSWERED]}, "different_prompts"),
    ],
)
def test_preferences_that_do_not_fit(change, reason):
    with pytest.raises(Unfit, match=f"^{reason}$"):
        preference({**PAIR, **change})


@pytest.mark.parametrize(
    ("row", "answer", "verifier"),
    [
        ({"prompt": "p", "answer": "42", "verifier": "math"}, "42", "math"),
        ({"question": "p", "answer": "6 * 7 = <<6*7=42>>42\n#### 42"}, "42", "exact"),
        ({"problem": "p", "solution": 42, "answer": None}, "42", "exact"),
        ({"prompt": "p", "answer": "3 4 -> 7", "verifier": "countdown"}, None, "countdown"),
        ({"prompt": "p", "answer": "#### a\nassert f()", "verifier": "code"}, None, "code"),
    ],
)
def test_problems(row, answer, verifier):
    wanted = {"prompt": "p", "answer": answer or row["answer"], "verifier": verifier}
    assert problem(row, "exact") == wanted


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "p", "answer": "42", "verifier": "vibes"}, "unknown_verifier"),
        ({"prompt": "p", "answer": "42", "verifier": {"name": "math"}}, "unknown_verifier"),
        ({"prompt": "p", "answer": "long sum ####"}, "no_answer"),
        ({"prompt": "p"}, "no_answer"),
        ({"answer": "42"}, "no_prompt"),
    ],
)
def test_problems_that_do_not_fit(row, reason):
    with pytest.raises(Unfit, match=f"^{reason}$"):
        problem(row, "exact")


def test_every_part_through_the_stage(tmp_path, base, tokenizer):
    """What fits is written whole, what does not is counted, and each answer is a target."""
    talk = {"messages": [ASKED, ANSWERED] * 3}
    long = {"prompt": "p", "completion": "1 2 3 " * 40}
    given = {
        "sft": [talk, long, {"messages": [ASKED]}, {"conversations": [TOLD, SAID]}],
        "preferences": [PAIR, {**PAIR, "rejected": "2"}, {**PAIR, "rejected": "no " * 200}],
        "problems": [{"question": "p", "answer": "#### 42"}, {"prompt": "p " * 200, "answer": "1"}],
        "test": [{"prompt": "p", "answer": "1", "verifier": "math"}, {"prompt": "p"}],
    }
    files = {part: write_jsonl(tmp_path / f"{part}.jsonl", rows) for part, rows in given.items()}
    named = {part: [{"location": file}] for part, file in files.items()}
    dataset, report = download(tmp_path, base, max_tokens=120, decontaminate=False, **named)
    dropped = {part: facts["dropped"] for part, facts in report.items()}
    assert dropped == {
        "sft": {"no_answer": 1, "too_long": 1},
        "preferences": {"identical_pair": 1, "too_long": 1},
        "problems": {"too_long": 1},
        "test": {"no_answer": 1},
    }
    assert data.read(dataset, "sft") == [talk, {"messages": [ASKED, ANSWERED]}]
    assert data.read(dataset, "preferences") == [PAIR]
    assert data.read(dataset, "problems")[0]["answer"] == "42"
    assert data.read(dataset, "test")[0]["verifier"] == "math"
    pairs = dialogues(data.read(dataset, "sft"), tokenizer, 120)
    assert len(pairs) == 4
    for number, (prompt, answer) in enumerate(pairs[:3]):
        assert answer == encode_answer(tokenizer, "2")
        assert prompt == encode_chat(tokenizer, talk["messages"][: 2 * number + 1])
    assert report["sft"]["tokens"] == sum(len(pairs[last][0] + pairs[last][1]) for last in (2, 3))


def test_datasets_are_interleaved_by_weight(tmp_path, base):
    def named(answer, weight):
        rows = [{"prompt": "p", "completion": answer}] * 300
        return {"location": write_jsonl(tmp_path / f"{answer}.jsonl", rows), "weight": weight}

    sft = [named("often", 3), named("seldom", 1)]
    dataset, report = download(tmp_path, base, sft=sft, examples=200)
    text = (dataset / "sft.jsonl").read_text()
    assert report["sft"]["documents"] == 200
    assert 130 < text.count("often") < 170
    assert json.loads(text.splitlines()[0])["messages"][0]["content"] == "p"


class Watched(dict):
    """A row that remembers which of its columns were asked for."""

    def __init__(self, *given):
        super().__init__(*given)
        self.asked = set()

    def get(self, name, default=None):
        self.asked.add(name)
        return super().get(name, default)

    def __getitem__(self, name):
        self.asked.add(name)
        return super().__getitem__(name)

    def __contains__(self, name):
        self.asked.add(name)
        return super().__contains__(name)


FORMS = {
    "sft": [
        {},
        {"messages": [ASKED, ANSWERED]},
        {"prompt": [ASKED], "completion": [ANSWERED]},
        {"instruction": "i", "input": "p", "output": "2", "system": "s"},
        {"question": "q", "response": "2"},
    ],
    "preferences": [{}, PAIR, {"prompt": [ASKED], "chosen": [ANSWERED], "rejected": [ANSWERED]}],
    "problems": [{}, {"prompt": "p", "answer": 5}, {"question": "p", "solution": "2"}],
}


@pytest.mark.parametrize("part", FORMS)
def test_nothing_is_read_but_what_the_part_names(part):
    """Other columns never reach a row form, so one that reads more would never see them."""
    form = {
        "sft": conversation,
        "preferences": preference,
        "problems": lambda r: problem(r, "math"),
    }
    for given in FORMS[part]:
        row = Watched(given)
        with contextlib.suppress(Unfit):
            form[part](row)
        assert row.asked and row.asked <= READS[part]
    assert READS["test"] == READS["problems"]
