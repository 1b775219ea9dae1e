"""The program in an answer written in Markdown: what stands in its fenced block of code.

Fences are CommonMark's (section 4.5): three or more backticks or tildes, closed on a line of its
own by as many or more of the same, or by the end of the text. A closing fence is indented by three
columns more than its opening one at most, so a fence in the docstring of an indented body is code.
More than CommonMark knows, because models write it: a fence stands at any depth, as in a list, or
ends a line of words. Running the program is `components.rewards.sandbox`'s.
"""

import ast
import re
import warnings
from collections.abc import Iterator
from typing import NamedTuple

LINE = re.compile(r"\r\n|\r|\n")
# No backtick may follow a fence of backticks: that is code within a line.
OPENING = re.compile(
    r"(?P<indent>[ \t]*(?:(?:[-*+]|\d{1,9}[.)])[ \t]+)?)"
    r"(?P<fence>`{3,}(?=[^`]*$)|~{3,})(?P<info>.*)"
)
BEHIND_WORDS = re.compile(r"(?P<indent>)[^`]*(?P<fence>`{3,})(?P<info>[\w.+-]*)[ \t]*")
SPAN = re.compile(r"(`+)(?:(?:python3?|py)\s+)?(?P<code>[^`\n]+)\1", re.IGNORECASE)


class Block(NamedTuple):
    """A fenced block: the first word behind its opening fence, in lower case, and its lines."""

    language: str
    code: str


def program(text: str) -> str:
    """The first fenced block that is marked as Python or not marked at all.

    Where every block is marked as something else it is the first of them; without a block it is the
    whole text, and what stands between backticks where that is all of it. A text that is Python as
    it stands has no block: a fence can only be in a string or behind a #.
    """
    found = list(blocks(text))
    if found and _is_python(text):
        return text
    for block in found:
        if not block.language or block.language.startswith("py"):
            return block.code
    if found:
        return found[0].code
    span = SPAN.fullmatch(text.strip())
    return span["code"].strip() if span else text


def _is_python(text: str) -> bool:
    """Whether all of a text can be read as Python, in which no backtick stands for itself."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def blocks(text: str) -> Iterator[Block]:
    """Every fenced block of a text, without the indentation that its opening fence has too."""
    lines = iter(LINE.split(text))
    for line in lines:
        if opening := OPENING.fullmatch(line) or BEHIND_WORDS.fullmatch(line):
            depth = len(opening["indent"])
            words = opening["info"].strip(" \t{}.").lower().split()
            code = "\n".join(_outdented(line, depth) for line in _inside(opening, depth, lines))
            yield Block(words[0] if words else "", code)


def _inside(opening: re.Match[str], depth: int, lines: Iterator[str]) -> Iterator[str]:
    """The lines up to the closing fence, which is taken too, or to the last."""
    fence = opening["fence"]
    closing = re.compile(rf"[ \t]{{0,{depth + 3}}}{fence[0]}{{{len(fence)},}}[ \t]*")
    for line in lines:
        if closing.fullmatch(line):
            return
        yield line


def _outdented(line: str, depth: int) -> str:
    margin = len(line) - len(line.lstrip(" \t"))
    return line[min(margin, depth) :]
