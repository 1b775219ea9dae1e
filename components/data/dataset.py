"""The files of a dataset artifact.

    pretrain/          tokenised documents (token_shards.py), packed by pretrain/packing.py
    pretrain.jsonl     {"text"}; only where the documents were made here or came ready-made
    sft.jsonl          {"messages": [{"role", "content"}, ...]}
    preferences.jsonl  {"prompt", "chosen", "rejected"}
    problems.jsonl     {"prompt", "answer", "verifier"}
    test.jsonl         {"prompt", "answer", "verifier"}; like the two above with a "system" if any
    report.json, .md   counts, lengths, drops and samples (datacard.py)

Reads local paths only.
"""

import json
import reprlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from components.data import jsonlines
from model.tokenizer import encode_answer, encode_chat

COLUMNS = {
    "pretrain": ("text",),
    "sft": ("messages",),
    "preferences": ("prompt", "chosen", "rejected"),
    "problems": ("prompt", "answer", "verifier"),
    "test": ("prompt", "answer", "verifier"),
}


def write(directory: Path, part: str, rows: Iterable[dict]) -> None:
    """Writes one file of a dataset."""
    with (directory / f"{part}.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def read(directory: Path, part: str) -> list[dict]:
    """The rows of one file, as `stream` gives them."""
    return list(stream(directory, part))


def stream(directory: Path, part: str) -> Iterator[dict]:
    """The rows of one file, one after the other.

    Raises ValueError naming the file and line of a bad row, and what is missing or empty.
    """
    path = directory / f"{part}.jsonl"
    if not path.is_file():
        raise ValueError(f"{path}: not there; a dataset has {', '.join(COLUMNS)} (.jsonl)")
    number = 0
    with path.open("rb") as file:
        for number, row in jsonlines.rows(file):
            yield _checked(part, f"{path}:{number}", row)
    if not number:
        raise ValueError(f"{path}: empty")


def _checked(part: str, place: str, row: dict | jsonlines.Unusable) -> dict:
    """The row, or ValueError naming its place and what it lacks."""
    if isinstance(row, jsonlines.Unusable):
        raise ValueError(f"{place}: {row}")
    if missing := [name for name in COLUMNS[part] if name not in row]:
        raise ValueError(f"{place}: lacks {', '.join(missing)}")
    for name in COLUMNS[part]:
        is_good, allowed = MESSAGES if name == "messages" else TEXT
        if not is_good(row[name]):
            raise ValueError(f"{place}: {name}={reprlib.repr(row[name])}, allowed: {allowed}")
    if not isinstance(system := row.get("system", ""), str):
        raise ValueError(f"{place}: system={reprlib.repr(system)}, allowed: a text")
    return row


def asked(row: Mapping[str, Any]) -> list[dict[str, str]]:
    """The messages that ask a preference or a problem: its system message, if any, and its prompt.

    Nobody reads `prompt` alone to ask a model: a row's system would be lost.
    """
    system = [{"role": "system", "content": row["system"]}] if row.get("system") else []
    return [*system, {"role": "user", "content": row["prompt"]}]


def _are_messages(value: Any) -> bool:
    """Whether it is a list of some {"role", "content"}, both texts."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(
            isinstance(message, dict)
            and all(isinstance(message.get(name), str) for name in ("role", "content"))
            for message in value
        )
    )


TEXT = (lambda value: isinstance(value, str)), "a text"
MESSAGES = _are_messages, "a list of messages, each with a role and content"


def tokens(part: str, row: dict, tokenizer: PreTrainedTokenizerBase) -> int:
    """Tokens of a row in the chat template: the prompt with its longest answer, if it has one."""
    if part == "sft":
        *before, last = row["messages"]
        return len(encode_chat(tokenizer, before)) + len(encode_answer(tokenizer, last["content"]))
    prompt = len(encode_chat(tokenizer, asked(row)))
    answers = [row[side] for side in ("chosen", "rejected") if side in row]
    return prompt + max((len(encode_answer(tokenizer, answer)) for answer in answers), default=0)
