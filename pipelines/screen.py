"""The terminal of whoever asks: the canvas as it denoises, and how a program of asking ends.

Answers go to the output, all else beside it, so that an answer can be piped on. In a terminal the
canvas is drawn in place, elsewhere it is a line a pass.
"""

import contextlib
import os
import sys
import unicodedata
from collections.abc import Iterator
from typing import NoReturn

from rich.console import Console
from rich.live import Live
from rich.text import Text
from transformers import PreTrainedTokenizerBase

from components.failure import as_line, explain, is_of_the_system
from model.training.preemption import Stopped, stoppable
from pipelines.asking import Watch

MASK = "·"
NEW, OLD, HIDDEN = "bold green", "default", "dim"


def say(text: str) -> None:
    """An answer for the output: in a terminal as `shown`, elsewhere as the model wrote it."""
    print(shown(text) if sys.stdout.isatty() else text, flush=True)


def shown(text: str) -> str:
    """The text without signs that steer a terminal, which a model writes as any other; lines stay.

    Signs that only cannot be seen belong to scripts and emoji, and stay.
    """
    steers = (unicodedata.category(sign) == "Cc" and sign not in "\n\t" for sign in text)
    return "".join("?" if steer else sign for sign, steer in zip(text, steers, strict=True))


def note(text: str) -> None:
    """A line for people, beside the output."""
    print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def drawing(tokenizer: PreTrainedTokenizerBase, *, show: bool) -> Iterator[Watch | None]:
    """Within the block the canvas is drawn after every pass by what this yields; None draws not."""
    if not show:
        yield None
        return
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    before: list[int] = []
    with Live(console=console, auto_refresh=False, transient=True) as live:

        def watch(tokens: list[int], passes: int) -> None:
            picture = _picture(tokenizer, tokens, before)
            picture = Text(f"pass {passes}: ", style=HIDDEN).append_text(picture)
            before[:] = tokens
            if console.is_terminal:
                live.update(picture, refresh=True)
            else:
                note(picture.plain)

        yield watch


def _picture(tokenizer: PreTrainedTokenizerBase, tokens: list[int], before: list[int]) -> Text:
    """The canvas as text: a point for a mask, and what this pass has written in another colour."""
    picture = Text()
    for place, token in enumerate(tokens):
        if token == tokenizer.mask_token_id:
            picture.append(MASK, style=HIDDEN)
        elif token != tokenizer.eos_token_id:
            is_new = place >= len(before) or before[place] != token
            (text,) = tokenizer.batch_decode([[token]])
            text = shown(" ".join(text.splitlines())) or " "
            picture.append(text, style=NEW if is_new else OLD)
    return picture


@contextlib.contextmanager
def ending(program: str) -> Iterator[None]:
    """Ends the process by one line: exit code 2 on bad input, 1 where the machine refuses.

    A signal ends it with 128 and its number.
    """
    try:
        with stoppable():
            yield
    except Stopped as notice:
        _end(program, str(notice), notice.code, kind="stopped")
    except BrokenPipeError:
        # Whoever reads the answers has gone: what is still buffered for them goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
    except (ValueError, FileNotFoundError) as error:
        _end(program, explain(error), 2)
    except Exception as error:
        if not is_of_the_system(error):
            raise
        _end(program, explain(error), 1)


def _end(program: str, message: str, code: int, *, kind: str = "error") -> NoReturn:
    print(f"{program}: {kind}: {as_line(message)}", file=sys.stderr)
    raise SystemExit(code)
