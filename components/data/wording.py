"""One message as text: a string, a number or a list of parts; a thought gets its delimiters.

What is no text (pictures, tool calls, booleans) raises Unfit: a row without it would ask or answer
something else. How messages make a row is `components.data.conversations`'s.
"""

import math
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from model.tokenizer import BEGIN_THOUGHT, DELIMITER, END_SOLUTION, reasoned

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
SWITCHES = ("on", "off")  # some sets tell by `reasoning` whether there is a thought
NAME = r"th(?:ink(?:ing)?|ought)\s*>"
OPEN = re.compile(rf"^<{NAME}", re.MULTILINE | re.IGNORECASE)
# Not where it is quoted; what follows may be a fence or a quotation of the answer's own.
TAG = re.compile(rf"(?<![\"'`])</?{NAME}", re.IGNORECASE)
CLOSE = re.compile(rf"(?<![\"'`])</{NAME}", re.IGNORECASE)
Row = Mapping[str, Any]


class Unfit(ValueError):
    """A row that no stage can use; its text is the reason, in a word."""


def message(given: Any) -> dict[str, str]:
    """{"role", "content"} of one message in OpenAI's or ShareGPT's form."""
    if not isinstance(given, Mapping):
        raise Unfit("no_messages")
    role = ROLES.get(str(first(given, ("role", "from"))))
    if role is None:
        raise Unfit("unknown_role")
    refuse(given)
    content = first(given, ("content", "value"))
    if role != "assistant":
        return {"role": role, "content": text(content, "empty_message")}
    if 0 in (given.get("weight"), given.get("train")):
        raise Unfit("untrained_turn")
    return {"role": role, "content": answer(content, given, "empty_message")}


def answer(content: Any, beside: Row, empty: str) -> str:
    """An assistant's answer, with delimiters around its thought wherever that was written:
    between <think> tags or their like, before a closing one alone, in a part, or in a column."""
    words, inner = _spoken(content)
    if not words:
        raise Unfit(empty)
    before, solution = _split(words)
    thoughts = {found.strip() for found in (before, inner, thought(beside)) if found}
    if len(thoughts) > 1:
        raise Unfit("two_thoughts")
    if before is None and not thoughts:
        if words.startswith(BEGIN_THOUGHT) and END_SOLUTION not in words:
            raise Unfit("unclosed_thought")
        return words
    delimited = reasoned(next(iter(thoughts), ""), solution)
    if len(DELIMITER.findall(delimited)) > 4:
        raise Unfit("two_thoughts")
    return delimited


def thought(row: Row) -> str | None:
    """The thought that stands in a column of its own."""
    found = next((row[name] for name in THOUGHTS if is_given(row.get(name))), None)
    is_switch = isinstance(found, bool) or found in SWITCHES
    return None if found is None or is_switch else text(found, "empty_message")


def text(given: Any, empty: str) -> str:
    """The text of a value, stripped. Raises Unfit(`empty`) where there is none."""
    words, inner = _spoken(given)
    if inner:
        raise Unfit("not_text")
    if not words:
        raise Unfit(empty)
    return words


def refuse(given: Row) -> None:
    """Raises Unfit for calls of tools and for pictures: the text beside them is not the whole."""
    if any(is_given(given.get(name)) for name in CALLS):
        raise Unfit("tool_calls")
    if any(is_given(given.get(name)) for name in MEDIA):
        raise Unfit("not_text")


def first(row: Row, names: tuple[str, ...]) -> Any:
    """The value of the first of the columns that is not null."""
    return next((row[name] for name in names if row.get(name) is not None), None)


def is_given(value: Any, depth: int = 4) -> bool:
    """Whether an optional column says anything: null, NaN, blanks and lists of those do not."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return False
    if isinstance(value, str):
        return value.strip() not in ("", "[]", "{}", "null")
    if isinstance(value, Mapping):
        value = list(value.values())
    if not isinstance(value, list) or (value and not depth):
        return True
    return any(is_given(inner, depth - 1) for inner in value)


def _spoken(given: Any) -> tuple[str, str]:
    """What a value says, and what its parts of thought say."""
    if given is None or isinstance(given, str):
        return (given or "").strip(), ""
    if isinstance(given, Mapping):
        given = [given]
    if not isinstance(given, list):
        return _number(given), ""
    words: list[str] = []
    thoughts: list[str] = []
    for part in given:
        kind, said = _part(part)
        (thoughts if kind in THOUGHTS else words).append(said)
    return "\n".join(words).strip(), "\n".join(thoughts).strip()


def _part(part: Any) -> tuple[str, str]:
    """The kind of a part of a message, and its text."""
    kind = part.get("type") if isinstance(part, Mapping) else None
    if isinstance(kind, str) and kind.startswith(("tool", "function")):
        raise Unfit("tool_calls")
    said = part.get("text" if kind not in THOUGHTS else kind) if isinstance(kind, str) else None
    if kind not in ("text", "input_text", "output_text", *THOUGHTS) or not isinstance(said, str):
        raise Unfit("not_text")
    return kind, said


def _number(value: Any) -> str:
    """The shortest plain decimal: 5 for 5.0, 0.00001 for 1e-05."""
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
    """The thought before </think>, if there is one, and what follows."""
    closed = CLOSE.search(words)
    if closed is None:
        if OPEN.search(words):
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
