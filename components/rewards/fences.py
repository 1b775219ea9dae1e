"""Extracts the program from an answer in Markdown: the content of its fenced block of code.

Fences are those of CommonMark (section 4.5): three or more backticks or tildes, closed on a line of
its own by at least as many of the same character, or by the end of the text. A closing fence is
indented by at most three columns more than its opening fence, so that a fence in the docstring of
an indented body stays code. Two forms beyond CommonMark are read, because models write them: a
fence at any depth, as in a list, and a fence at the end of a line of words.
`components.rewards.sandbox` runs the program.
"""

import ast
import re
import warnings
from collections.abc import Iterator
from typing import NamedTuple

LINE = re.compile(r"\r\n|\r|\n")
# A backtick after a fence of backticks makes both inline code, as in ```x```.
OPENING = re.compile(
    r"(?P<indent>[ \t]*(?:(?:[-*+]|\d{1,9}[.)])[ \t]+)?)"
    r"(?P<fence>`{3,}(?=[^`]*$)|~{3,})(?P<info>.*)"
)
OPENING_AFTER_WORDS = re.compile(r"(?P<indent>)[^`]*(?P<fence>`{3,})(?P<info>[\w.+-]*)[ \t]*")
SPAN = re.compile(r"(`+)(?:(?:python3?|py)\s+)?(?P<code>[^`\n]+)\1", re.IGNORECASE)


class Block(NamedTuple):
    """A fenced block: the first word after its opening fence, in lower case, and its lines."""

    language: str
    code: str


def program(text: str) -> str:
    """The code of the first fenced block that is marked as Python or has no mark.

    If all blocks are marked as other languages, the first block. Without a block, the whole text,
    or the code of a text that is a single code span. A text that is valid Python as it stands is
    returned whole: its fences can only be in a string or a comment.
    """
    candidates = list(blocks(text))
    if candidates and _is_python(text):
        return text
    for block in candidates:
        if not block.language or block.language.startswith("py"):
            return block.code
    if candidates:
        return candidates[0].code
    span = SPAN.fullmatch(text.strip())
    return span["code"].strip() if span else text


def _is_python(text: str) -> bool:
    """Whether the whole text is valid Python; backticks are then in strings and comments only."""
    try:
        # An invalid escape, as in "\d", is valid Python with a warning.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def blocks(text: str) -> Iterator[Block]:
    """Every fenced block of a text, its lines without the indentation of the opening fence."""
    lines = iter(LINE.split(text))
    for line in lines:
        if opening := OPENING.fullmatch(line) or OPENING_AFTER_WORDS.fullmatch(line):
            depth = len(opening["indent"])
            words = opening["info"].strip(" \t{}.").lower().split()
            code = "\n".join(_dedent(line, depth) for line in _content(opening, depth, lines))
            yield Block(words[0] if words else "", code)


def _content(opening: re.Match[str], depth: int, lines: Iterator[str]) -> Iterator[str]:
    """The lines before the closing fence, or all remaining lines; consumes the closing fence."""
    fence = opening["fence"]
    closing = re.compile(rf"[ \t]{{0,{depth + 3}}}{fence[0]}{{{len(fence)},}}[ \t]*")
    for line in lines:
        if closing.fullmatch(line):
            return
        yield line


def _dedent(line: str, depth: int) -> str:
    """The line without its first `depth` characters as far as they are white space."""
    margin = len(line) - len(line.lstrip(" \t"))
    return line[min(margin, depth) :]
