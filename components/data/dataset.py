"""The files of a dataset artifact.

    pretrain/          tokenised documents (token_shards.py), packed by pretrain/packing.py
    pretrain.jsonl     {"text"}; only where the pretraining texts do not come from sources
    report.json, .md   counts, lengths, drops and samples (datacard.py)
    sft.jsonl          {"messages": [{"role", "content"}, ...]}
    preferences.jsonl  {"prompt", "chosen", "rejected"}
    problems.jsonl     {"prompt", "answer", "verifier"}
    test.jsonl         {"prompt", "answer", "verifier"}

Preferences, problems and tests may have a "system", the system message before the prompt, and
preferences "turns", the messages of a dialogue before it.
Reads local paths only.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from components.data import jsonlines
from components.data.jsonlines import Row
from model.options import check
from model.tokenizer import encode_answer, encode_chat

COLUMNS = {
    "pretrain": ("text",),
    "sft": ("messages",),
    "preferences": ("prompt", "chosen", "rejected"),
    "problems": ("prompt", "answer", "verifier"),
    "test": ("prompt", "answer", "verifier"),
}


def write(directory: Path, part: str, rows: Iterable[Row]) -> None:
    """Writes one file of a dataset."""
    for _ in copied(directory, part, rows):
        pass


def copied(directory: Path, part: str, rows: Iterable[Row]) -> Iterator[Row]:
    """The rows, each written to the file of the part as it goes by."""
    with (directory / f"{part}.jsonl").open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            yield row


def read(directory: Path, part: str) -> list[Row]:
    """The rows of one file. Raises as `stream` does."""
    return list(stream(directory, part))


def stream(directory: Path, part: str) -> Iterator[Row]:
    """The rows of one file, read as they are used.

    Raises ValueError naming a file that is missing or empty, or the file, line and column of a bad
    row.
    """
    path = directory / f"{part}.jsonl"
    if not path.is_file():
        raise ValueError(f"{path}: not there; a dataset has {', '.join(COLUMNS)} (.jsonl)")
    number = 0
    with path.open("rb") as file:
        for number, row in jsonlines.rows(file):
            yield _check(part, f"{path}:{number}", row)
    if not number:
        raise ValueError(f"{path}: empty")


def _check(part: str, place: str, row: Row | jsonlines.Unusable) -> Row:
    """The row, or ValueError naming its place and the column that is missing or wrong."""
    if isinstance(row, jsonlines.Unusable):
        raise ValueError(f"{place}: {row}")
    if missing := [name for name in COLUMNS[part] if name not in row]:
        raise ValueError(f"{place}: lacks {', '.join(missing)}")
    for name in COLUMNS[part]:
        is_good, allowed = MESSAGES if name == "messages" else TEXT
        check(f"{place}: {name}", row[name], is_good(row[name]), allowed)
    system = row.get("system", "")
    check(f"{place}: system", system, isinstance(system, str), "a text")
    if "turns" in row:
        is_good, allowed = MESSAGES
        check(f"{place}: turns", row["turns"], is_good(row["turns"]), allowed)
    return row


def prompt_messages(row: Mapping[str, Any]) -> list[dict[str, str]]:
    """The messages before the answer of a preference or problem: its system, if any, and prompt.

    Every stage prompts a model with these; `row["prompt"]` alone would lose the system message.
    """
    system = [{"role": "system", "content": row["system"]}] if row.get("system") else []
    return [*system, *row.get("turns", ()), {"role": "user", "content": row["prompt"]}]


def _are_messages(value: Any) -> bool:
    """Whether the value is a list, not empty, of {"role", "content"} with both texts."""
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


def tokens(part: str, row: Row, tokenizer: PreTrainedTokenizerBase) -> int:
    """Tokens of a row in the chat template: its prompt and, if there is one, its longest answer."""
    if part == "sft":
        *before, last = row["messages"]
        return len(encode_chat(tokenizer, before)) + len(encode_answer(tokenizer, last["content"]))
    prompt = len(encode_chat(tokenizer, prompt_messages(row)))
    answers = [row[side] for side in ("chosen", "rejected") if side in row]
    return prompt + max((len(encode_answer(tokenizer, answer)) for answer in answers), default=0)
