"""Rows as published sets and people's exports write them: used right, or counted for a reason."""

import json
from collections import Counter

import pytest

from components.data import dataset as data
from components.data.conversations import conversation, preference, problem
from components.data.wording import Unfit
from tests.components.corpora import download, write_jsonl
from tests.components.data.conversation_shapes import CONVERSATIONS
from tests.components.data.row_shapes import PREFERENCES, PROBLEMS


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


def test_every_kind_is_counted_in_the_card(tmp_path, base):
    """Through the stage: each row that fits is written, every other one is in the report."""
    for part, kinds in {
        "sft": CONVERSATIONS,
        "preferences": PREFERENCES,
        "problems": PROBLEMS,
    }.items():
        plain = {name: case for name, case in kinds.items() if is_json(case[0])}
        file = write_jsonl(tmp_path / f"{part}.jsonl", [row for row, _ in plain.values()])
        dataset, report = download(tmp_path / part, base, **{part: [{"location": file}]})
        wanted = [case for _, case in plain.values()]
        reasons = Counter(case for case in wanted if isinstance(case, str))
        assert report[part]["dropped"] == reasons
        rows = [{"messages": case} if part == "sft" else case for case in wanted]
        kept = [row for row, case in zip(rows, wanted, strict=True) if not isinstance(case, str)]
        assert data.read(dataset, part) == kept


def is_json(row):
    try:
        return bool(json.dumps(row, allow_nan=False))
    except (TypeError, ValueError):
        return False
