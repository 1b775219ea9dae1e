"""Hostile tokenizers, texts of chats and judges' answers, as `test_hostile.py` has other input."""

import json
import types

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.download import tokenizer_probe
from components.rewards import judge
from components.rewards.named import solution
from model import tokenizer
from tests.faults.hostile import CASES, bounded, cases, changed, each, stored, values


@pytest.fixture(scope="session")
def own_tokenizer(tmp_path_factory):
    """A tokenizer of ours, and the content of its file."""
    path = tmp_path_factory.mktemp("tokenizer")
    tokenizer.train_tokenizer(["a b c 1 + 1"] * 5, vocabulary=300).save_pretrained(path)
    return path


def test_tokenizers(own_tokenizer, tmp_path_factory):
    """As the process that tries them does; what it takes is then loaded and used."""
    folder = tmp_path_factory.mktemp("tokenizers")
    usual = json.loads((own_tokenizer / "tokenizer.json").read_text())
    settings = json.loads((own_tokenizer / "tokenizer_config.json").read_text())
    short = {**usual, "added_tokens": usual["added_tokens"][:3]}
    split = {"type": "Split", "pattern": {"Regex": "a+"}, "behavior": "Isolated", "invert": False}
    count = 0

    def one(case):
        nonlocal count
        count += 1
        (folder / "tokenizer.json").write_text(json.dumps(case[0]))
        (folder / "tokenizer_config.json").write_text(json.dumps(case[1]))
        with bounded(folder):
            try:
                tokenizer_probe.main(folder / "tokenizer.json")
                own = tokenizer.load_tokenizer(folder)
            except BaseException as error:  # the process ends, or check_fit says so in a line
                raise ValueError(str(error)) from None
            own.decode(tokenizer.encode_chat(own, [{"role": "user", "content": "a 1"}]))

    for change in stored("tokenizer"):
        one([{**short, **change}, settings])
    strategy = st.tuples(changed({**short, "pre_tokenizer": split}), changed(settings))
    cases(CASES["tokenizer"])(given(strategy)(one))()
    assert count >= CASES["tokenizer"]


def test_chat_texts(own_tokenizer, tmp_path_factory):
    """No text becomes a control token, whatever it spells."""
    folder = tmp_path_factory.mktemp("chat")
    own = tokenizer.load_tokenizer(own_tokenizer)
    control = {own.mask_token_id, own.eos_token_id, *tokenizer.stop_tokens(own)}
    spelt = st.lists(st.one_of(st.sampled_from([*own.all_special_tokens, "<|", "|>"]), st.text()))

    def one(text):
        text = text.encode(errors="replace").decode()
        with bounded(folder):
            plain = tokenizer.encode_chat(own, [{"role": "user", "content": ""}])
            ids = tokenizer.encode_chat(own, [{"role": "user", "content": text}])
            counts = [sum(token in control for token in each) for each in (plain, ids)]
            assert counts[0] == counts[1]
            solution(text)
            own.decode(tokenizer.encode_answer(own, text))

    for text in stored("chat"):
        one(text)
    cases(CASES["chat"])(given(spelt.map("".join))(one))()


SCORES = {"answer_1": 3, "answer_2": 7.5}
REPLIES = st.one_of(changed(SCORES).map(json.dumps), st.text(max_size=60), values)


@each("judge", REPLIES)
def test_judge_answers(folder, case):
    message = types.SimpleNamespace(message=types.SimpleNamespace(content=case))
    numbers = judge._scores(judge._content(types.SimpleNamespace(choices=[message])), 2)
    assert all(0 <= number <= 1 for number in numbers)
    judge._content(case)
