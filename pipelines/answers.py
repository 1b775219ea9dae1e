"""A file of prompts and the file of their answers, which a second call goes on with.

    prompts   {"prompt", "system" if any} or {"messages": [{"role", "content"}, ...]} a line
    answers   the same row with "response", "solution", "tokens" and "asked", in the same order

"asked" is a fingerprint of model, adapters and options: answers of another question are never
taken for finished ones.
"""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from components.data import jsonlines
from model.options import check, check_type
from pipelines import asking

Row = dict[str, Any]
QUESTION = ("prompt", "system", "messages")


def read_prompts(file: Path) -> list[tuple[Row, asking.Messages]]:
    """Every row with the dialogue that it asks.

    Raises ValueError naming the file and line of a row that asks nothing, or FileNotFoundError.
    """
    found = []
    with file.open("rb") as stream:
        for number, row in jsonlines.rows(stream):
            place = f"{file}:{number}"
            if isinstance(row, jsonlines.Unusable):
                raise ValueError(f"{place}: {row}")
            try:
                found.append((row, _dialogue(row)))
            except ValueError as error:
                raise ValueError(f"{place}: {error}") from None
    check("prompts", str(file), bool(found), "a file with a prompt or more")
    return found


def _dialogue(row: Row) -> asking.Messages:
    if "messages" not in row:
        check_type("system", str | None, row.get("system"))
        return asking.with_system(asking.messages(row.get("prompt", "")), row.get("system"))
    given = row["messages"]
    is_good = isinstance(given, list) and bool(given)
    is_good = is_good and all(
        isinstance(message, dict)
        and all(isinstance(message.get(name), str) for name in ("role", "content"))
        for message in given
    )
    is_good = is_good and given[-1]["role"] == "user" and bool(given[-1]["content"].strip())
    check("messages", given, is_good, "a list of role and content, a user's question last")
    return given


def finished(file: Path, rows: Sequence[Row], fingerprint: str) -> tuple[int, int]:
    """How many rows are answered in `file`, and in how many bytes; what was cut off is not counted.

    Raises ValueError where an answer is to another prompt, or of another model or other options.
    """
    count = size = 0
    if not file.exists():
        return count, size
    with file.open("rb") as stream:
        for line in stream:
            if not line.endswith(b"\n"):
                break  # a write that was cut off
            check_line(f"{file}:{count + 1}", line, rows[count:], fingerprint)
            count, size = count + 1, size + len(line)
    return count, size


def check_line(place: str, line: bytes, rows: Sequence[Row], fingerprint: str) -> None:
    """Raises ValueError unless the line answers the first of the rows, asked in the same way."""
    allowed = "answers of the same prompts, model and options to go on with, or a new file"
    try:
        answer = json.loads(line)
    except ValueError:
        answer = None
    is_answer = isinstance(answer, dict) and "response" in answer and "asked" in answer
    check("output", place, is_answer and bool(rows), f"{allowed}; this is no answer of theirs")
    is_same = answer["asked"] == fingerprint
    check("output", place, is_same, f"{allowed}; this is of another model or other options")
    is_same = all(answer.get(name) == rows[0].get(name) for name in QUESTION)
    check("output", place, is_same, f"{allowed}; this answers another prompt")


@contextlib.contextmanager
def appending(file: Path, size: int) -> Iterator[BinaryIO]:
    """The file open at byte `size`, cut off there, and no other process's within the block."""
    with file.open("ab") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"output={str(file)!r}: another process is writing it") from None
        os.ftruncate(stream.fileno(), size)
        yield stream


def write(stream: BinaryIO, rows: Sequence[Row], asked: asking.Asked, fingerprint: str) -> None:
    """Appends the answers to some rows, all at once."""
    lines = [
        json.dumps(
            row
            | {
                "response": answer.text,
                "solution": answer.solution,
                "tokens": answer.tokens,
                "asked": fingerprint,
            },
            ensure_ascii=False,
        )
        for row, answer in zip(rows, asked.answers, strict=True)
    ]
    stream.write("".join(f"{line}\n" for line in lines).encode())
    stream.flush()
