"""The process in which a stranger's tokenizer is tried before it is loaded, by `vocabulary`.

Encodes texts that are hard for regular expressions: one sign, or one word, again and again, made of
the signs that the file's own expressions name. A file that no tokenizer can be made of, or that
fails on a text, ends the process with exit code 1 and the reason in the last line.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

LENGTH = 2000  # characters of a text
MOST = 64  # signs that are tried
USUAL = " \n\taA1.'-éя中"


def main(file: Path) -> None:
    """Encodes the texts; raises what the library raises."""
    tokenizer = Tokenizer.from_file(str(file))
    for text in texts("".join(expressions(json.loads(file.read_text(encoding="utf-8"))))):
        tokenizer.encode(text)


def texts(signs: str) -> Iterator[str]:
    """Every usual sign, and every one of `signs`, repeated, with an end that does not match.

    The letters come last, because an engine gives up at once where a needed letter is nowhere.
    """
    letters = "".join(sign for sign in dict.fromkeys(signs) if sign.isalnum())[:MOST]
    for sign in list(dict.fromkeys(USUAL + signs))[: len(USUAL) + MOST]:
        yield f"{sign * LENGTH}\x00{letters}"
        yield f"{f'{sign}a' * (LENGTH // 2)}\x00{letters}"
    yield letters * (LENGTH // max(len(letters), 1)) + "\x00"


def expressions(values: Any) -> Iterator[str]:
    """The regular expressions of a tokenizer.json, wherever they are in it."""
    for key, value in values.items() if isinstance(values, dict) else enumerate(values):
        if key == "Regex" and isinstance(value, str):
            yield value
        elif isinstance(value, dict | list) and key != "vocab" and key != "merges":
            yield from expressions(value)


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except BaseException as error:  # the library raises one that is no Exception
        sys.exit(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
