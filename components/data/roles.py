"""Rows of a named data set in the usual shapes, by the roles that its entry gives to columns.

`components.data.catalogue` has the entries; `components.data.conversations` takes the rows from
here. A row that does not fit raises Unfit with the reason under which it is counted.
"""

import functools
import re
from collections.abc import Iterator
from typing import Any

from components.data import wording
from components.data.config import ROLES, Entry, Pairs
from components.data.jsonlines import Row
from components.data.wording import Unfit

SIDES = ("chosen", "rejected")
# In a text with columns in braces; one with a ? may be empty.
COLUMN = re.compile(r"\{([A-Za-z_]\w*(?:\.\w+)*)(\??)\}", re.ASCII)
TURN = re.compile(r"(?:\A\s*|\n\n[ \t]*)(Human|Assistant):[ \t]*")
BOX = re.compile(r"\\(?:boxed|fbox)\s*(\{)?")
FORMULA = re.compile(r"(?<!\\)(?:\$\$?|\\[][()])")  # begins or ends one
PIECE = 1 << 20  # characters of a piece of a long document, up to its line's end


@functools.cache
def columns(entry: Entry, keep: Pairs = ()) -> frozenset[str]:
    """The columns that the roles and the filters read."""
    roles = [role for name in ROLES if (role := getattr(entry, name)) is not None]
    paths = [path for role in roles for path, _ in COLUMN.findall(role) or [(role, "")]]
    paths += [path for path, _ in (*entry.keep, *keep)]
    return frozenset(path.partition(".")[0] for path in paths)


def usual(entry: Entry, keep: Pairs, row: Row) -> Row:
    """The row as the readers of usual shapes take it.

    Raises Unfit for a row that is not kept, and for one without a column: without its thought or
    its context it would say something else.
    """
    if missing := columns(entry, keep) - row.keys():
        raise Unfit(f"no_column_{min(missing)}")
    for path, pattern in (*entry.keep, *keep):
        if re.fullmatch(pattern, _shown(_value(row, path)), re.DOTALL) is None:
            raise Unfit(f"other_{path}")
    plain = {
        name: _role(entry, role, row)
        for name, role in (
            ("system", "system"),
            ("messages", "messages"),
            ("prompt", "prompt"),
            ("context", "context"),
            ("reasoning_content", "thought"),
            *((side, side) for side in SIDES),
        )
        if getattr(entry, role) is not None
    }
    if entry.thought is not None and wording.thought(plain) is None:
        raise Unfit("no_thought")  # the answer alone would teach to leave the thought out
    if entry.kind == "conversations" and entry.answer is not None:
        plain["completion"] = _role(entry, "answer", row)
    if entry.kind == "problems":
        plain |= {"answer": _gold(entry, row), "verifier": entry.verifier}
    if entry.form == "transcript":
        plain |= _turns(plain)
    return plain


def documents(entry: Entry, row: Row) -> Iterator[str]:
    """The text of a row, in pieces where it is long and the entry allows that."""
    text = _role(entry, "text", row)
    if not isinstance(text, str) or not text.strip():
        raise Unfit(f"no_{entry.text}")
    start = 0
    while entry.pieces and len(text) - start > PIECE:
        end = text.find("\n", start + PIECE) + 1 or len(text)
        end = min(end, start + 2 * PIECE)  # a line without an end
        yield text[start:end]
        start = end
    if start < len(text):
        yield text[start:]


def _role(entry: Entry, role: str, row: Row) -> Any:
    """The value of a role: a column's, or a text with the values of columns in it."""
    wanted = getattr(entry, role)
    if not COLUMN.search(wanted):
        return _value(row, wanted)

    def show(match: re.Match[str]) -> str:
        value = _value(row, match[1])
        items = value if isinstance(value, list) else [value]
        if not (match[2] or (items and all(map(wording.has_value, items)))):
            raise Unfit(f"no_{role}")
        return _shown(value)

    return COLUMN.sub(show, wanted).strip()


def _value(row: Row, path: str) -> Any:
    """The value at a path such as `reward.answer` or `attempts.0`, None where there is none."""
    value: Any = row
    for name in path.split("."):
        if isinstance(value, dict):
            value = value.get(name)
        elif isinstance(value, list) and name.isdigit():
            value = value[int(name)] if int(name) < len(value) else None
        else:
            return None
    return value


def _shown(value: Any) -> str:
    """A value as text: numbers of a list are joined by ", ", its texts by line ends."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        are_texts = any(isinstance(item, str) for item in value)
        return ("\n" if are_texts else ", ").join(map(_shown, value))
    return value if isinstance(value, str) else wording.text(value, "not_text")


def _gold(entry: Entry, row: Row) -> str:
    """A problem's gold, from where the entry says that it is. Raises Unfit if it is not there."""
    answer = wording.text(_role(entry, "answer", row), "no_answer")
    if entry.gold == "whole":
        return answer
    last = answer.rpartition("\n")[2]
    gold = last.rpartition("####")[2] if "####" in last else ""
    gold = _last_box(answer) if entry.gold == "box" else gold
    return wording.text(gold, "no_answer")


def _last_box(text: str) -> str:
    r"""The content of the last \boxed{...}, whose braces may be nested.

    `\boxed 5` without braces goes to the end of its formula, or of its word where none is open.
    """
    boxes = list(BOX.finditer(text))
    if not boxes:
        return ""
    rest = text[boxes[-1].end() :]
    if boxes[-1][1] is None:
        within = rest if _is_formula(text[: boxes[-1].start()]) else (rest.split() or [""])[0]
        return FORMULA.split(within)[0].rstrip(". ")
    depth = 1
    for match in re.finditer(r"\\.|[{}]", rest, re.DOTALL):
        depth += {"{": 1, "}": -1}.get(match[0], 0)
        if not depth:
            return rest[: match.start()]
    return ""  # cut off


def _is_formula(before: str) -> bool:
    r"""Whether a formula in `$`, `\(` or `\[` is open at the end of a text."""
    marks = FORMULA.findall(before)
    dollars = sum(mark.startswith("$") for mark in marks)
    return bool(marks) and (marks[-1] in (r"\(", r"\[") or dollars % 2 == 1)


def _turns(plain: Row) -> Row:
    """The transcripts of a row as messages; without a prompt the pair are whole transcripts."""
    if "prompt" in plain:
        *before, last = _transcript(plain["prompt"])
        if last["role"] != "assistant" or last["content"]:
            raise Unfit("transcript")  # the turn that is to be answered must be there, and empty
        if any(TURN.search(str(plain[side])) for side in SIDES if side in plain):
            raise Unfit("transcript")  # an answer that goes on with further turns
        return {"prompt": before}
    return {side: _transcript(plain[side]) for side in SIDES if side in plain}


def _transcript(text: Any) -> list[dict[str, str]]:
    """The turns of a text such as "\\n\\nHuman: Hi\\n\\nAssistant: Hello"."""
    before, *parts = TURN.split(text) if isinstance(text, str) else [""]
    if before.strip() or not parts:
        raise Unfit("transcript")
    names = {"Human": "user", "Assistant": "assistant"}
    pairs = zip(parts[::2], parts[1::2], strict=True)
    return [{"role": names[name], "content": content.strip()} for name, content in pairs]
