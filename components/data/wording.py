"""One message as text: a string, a number or a list of parts; a thought gets its delimiters.

Pictures, tool calls, booleans and other values that are not text raise Unfit: the row without them
would ask or answer something else. `components.data.conversations` makes rows of messages.
"""

import math
import re
from decimal import Decimal
from typing import Any

from components.data.jsonlines import Row
from model.tokenizer import BEGIN_THOUGHT, DELIMITER, END_SOLUTION, REASONING, reasoned

ROLES = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
}
THOUGHTS = (
    *("reasoning_content", "reasoning", "thinking", "thought", "rationale", "chain_of_thought"),
    *("cot", "reasoning_text", "reasoning_details"),
)
MEDIA = ("image", "images", "video", "videos", "audio", "audios")
CALLS = ("tool_calls", "function_call")
SWITCHES = ("on", "off")  # in some datasets `reasoning` only says whether there is a thought
NAME = r"th(?:ink(?:ing)?|ought)\s*>"
OPEN = re.compile(rf"<{NAME}", re.IGNORECASE)
# A tag in quotes or backticks is quoted, and is text. Only the sign before it decides: the sign
# after it may open a code block or a quotation of the answer.
TAG = re.compile(rf"(?<![\"'`])</?{NAME}", re.IGNORECASE)
CLOSE = re.compile(rf"(?<![\"'`])</{NAME}", re.IGNORECASE)
CALCULATOR = re.compile(r"<<[^<>=\n]{1,80}=[^<>=\n]{1,40}>>")  # GSM8K's, before "#### 7"


class Unfit(ValueError):
    """A row that no stage can use; the message is one word, under which it is counted."""


def message(turn: Any) -> dict[str, str]:
    """{"role", "content"} of one message in OpenAI's or ShareGPT's form."""
    if not isinstance(turn, dict):
        raise Unfit("no_messages")
    role = ROLES.get(str(first(turn, ("role", "from"))))
    if role is None:
        raise Unfit("unknown_role")
    refuse(turn)
    content = first(turn, ("content", "value"))
    if role != "assistant":
        return {"role": role, "content": text(content, "empty_message")}
    if 0 in (turn.get("weight"), turn.get("train")):
        raise Unfit("untrained_turn")
    return {"role": role, "content": answer(content, turn, "empty_message")}


def answer(content: Any, beside: Row, empty: str) -> str:
    """An assistant's answer, with our delimiters around its thought.

    The thought may stand between <think> tags or similar ones, before a closing tag alone, in a
    part of the content, or in a column of `beside`. Raises Unfit(`empty`) if there is no text.
    """
    words, inner = _spoken(content)
    if not words:
        raise Unfit(empty)
    if "\n####" in words and CALCULATOR.search(words):
        raise Unfit("calculator")
    before, solution = _split(words)
    thoughts = {text.strip() for text in (before, inner, thought(beside)) if text}
    if len(thoughts) > 1:
        raise Unfit("two_thoughts")
    if before is None and not thoughts:
        _check_delimiters(words)
        return words
    delimited = reasoned(next(iter(thoughts), ""), solution)
    if len(DELIMITER.findall(delimited)) > 4:
        raise Unfit("two_thoughts")
    return delimited


def thought(row: Row) -> str | None:
    """The thought in a column of its own, or None."""
    value = next((row[name] for name in THOUGHTS if has_value(row.get(name))), None)
    is_switch = isinstance(value, bool) or value in SWITCHES
    return None if value is None or is_switch else text(value, "empty_message")


def text(value: Any, empty: str) -> str:
    """The text of a value, stripped. Raises Unfit(`empty`) if it is empty."""
    words, inner = _spoken(value)
    if inner:
        raise Unfit("not_text")
    if not words:
        raise Unfit(empty)
    return words


def refuse(row: Row) -> None:
    """Raises Unfit for tool calls and pictures: the text alone would be incomplete."""
    if any(has_value(row.get(name)) for name in CALLS):
        raise Unfit("tool_calls")
    if any(has_value(row.get(name)) for name in MEDIA):
        raise Unfit("not_text")


def first(row: Row, names: tuple[str, ...]) -> Any:
    """The first value among the named columns that is not null, or None."""
    return next((row[name] for name in names if row.get(name) is not None), None)


def has_value(value: Any, depth: int = 4) -> bool:
    """Whether an optional column holds a value: not null, NaN, blank or a list of such."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return False
    if isinstance(value, str):
        return value.strip() not in ("", "[]", "{}", "null")
    if isinstance(value, dict):
        value = list(value.values())
    if not isinstance(value, list) or (value and not depth):
        return True
    return any(has_value(inner, depth - 1) for inner in value)


def _spoken(value: Any) -> tuple[str, str]:
    """The text of a value, and the text of those of its parts that are thought."""
    if value is None or isinstance(value, str):
        return (value or "").strip(), ""
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, list):
        return _number(value), ""
    words: list[str] = []
    thoughts: list[str] = []
    for part in value:
        kind, content = _part(part)
        (thoughts if kind in THOUGHTS else words).append(content)
    return "\n".join(words).strip(), "\n".join(thoughts).strip()


def _part(part: Any) -> tuple[str, str]:
    """The kind of a part of a message, and its text."""
    kind = part.get("type") if isinstance(part, dict) else None
    if isinstance(kind, str) and kind.startswith(("tool", "function")):
        raise Unfit("tool_calls")
    content = part.get("text" if kind not in THOUGHTS else kind) if isinstance(kind, str) else None
    if kind not in ("text", "input_text", "output_text", *THOUGHTS) or not isinstance(content, str):
        raise Unfit("not_text")
    return kind, content


def _check_delimiters(words: str) -> None:
    """Raises Unfit unless an answer's own delimiters are a thought and a solution, or none."""
    parts = tuple(DELIMITER.findall(words))
    if parts[:1] == (BEGIN_THOUGHT,) and END_SOLUTION not in parts:
        raise Unfit("unclosed_thought")
    if parts and (parts not in (REASONING, REASONING[2:]) or not words.startswith(parts[0])):
        raise Unfit("delimiters")  # the stages would train on them as tokens


def _number(value: Any) -> str:
    """A number as the shortest plain decimal: 5 for 5.0, 0.00001 for 1e-05."""
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        raise Unfit("not_text")
    if isinstance(value, int):
        return str(value)
    if not math.isfinite(value):
        raise Unfit("not_finite")
    plain = f"{Decimal(str(value)):f}"
    if "." in plain:
        plain = plain.rstrip("0").rstrip(".")
    return "0" if plain == "-0" else plain


def _split(words: str) -> tuple[str | None, str]:
    """The thought before </think>, or None, and the text after it."""
    closed = CLOSE.search(words)
    if closed is None:
        if TAG.search(words):
            raise Unfit("unclosed_thought")
        return None, words
    opened = OPEN.match(words)
    before = words[opened.end() if opened else 0 : closed.start()].strip()
    after = words[closed.end() :].strip()
    if TAG.search(before) or TAG.search(after):
        raise Unfit("think_tags")
    if not after:
        raise Unfit("no_solution")
    return before, after
