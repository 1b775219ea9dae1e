"""Rows as published sets and people's exports write them: used right, or counted for a reason."""

import pytest

from components import dataset as data
from components.conversations import conversation, preference, problem
from components.wording import Unfit
from tests.components.conversation_shapes import ASK, CONVERSATIONS, A, Q
from tests.components.corpora import download, write_jsonl
from tests.components.row_shapes import PREFERENCES, PROBLEMS


def outcome(function, row):
    try:
        return function(row)
    except Unfit as reason:
        return str(reason)


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_conversations(name):
    row, wanted = CONVERSATIONS[name]
    wanted = wanted if isinstance(wanted, str) else {"messages": wanted}
    assert outcome(conversation, row) == wanted
    if not isinstance(wanted, str):
        assert conversation(wanted) == wanted, "what is stored is read again as it is"


@pytest.mark.parametrize("name", PREFERENCES)
def test_preferences(name):
    row, wanted = PREFERENCES[name]
    assert outcome(preference, row) == wanted
    if not isinstance(wanted, str):
        assert preference(wanted) == wanted


@pytest.mark.parametrize("name", PROBLEMS)
def test_problems(name):
    row, wanted = PROBLEMS[name]
    assert outcome(lambda row: problem(row, "exact"), row) == wanted
    if not isinstance(wanted, str):
        assert problem(wanted, "math") == wanted


def test_the_card_names_what_was_not_used(tmp_path, base):
    rows = [
        {**ASK, "completion": "7", "rationale": "x", "a|b\n": 1, "id": None},
        {**ASK, "completion": True, "rationale": "x"},
        *({**ASK, "completion": "7", f"column {number}": 1} for number in range(60)),
    ]
    sources = [{"location": write_jsonl(tmp_path / "rows.jsonl", rows)}]
    dataset, report = download(tmp_path, base, sft=sources)
    facts = report["sft"]
    assert facts["dropped"] == {"not_text": 1} and facts["documents"] == 61
    assert (facts["ignored"]["rationale"], facts["ignored"]["a|b"]) == (2, 1)
    assert len(facts["ignored"]) == 51 and facts["ignored"]["(others)"] == 12
    page = (dataset / "report.md").read_text().splitlines()
    assert "| column not used | rows |" in page and "| a\\|b | 1 |" in page
    assert data.read(dataset, "sft")[0] == {"messages": [Q, A]}
