"""The two forms in which a model is given a problem, and where each form has the solution.

chat  A turn of a chat in the model's template. The solution is between its delimiters.
text  The problem's own text without template or control tokens, for a base model to continue: in
      pretraining a document starts with its first word and ends with EOS. The solution is the last
      result of the first line, so that the model needs no format that it was not taught. Tests of
      code run the whole text; a Countdown expression is the whole first line, and a Sudoku grid all
      text before the first blank line.
"""

import re
from collections.abc import Callable

from transformers import PreTrainedTokenizerBase

from components.data import dataset as data
from components.evaluate.config import Form
from components.rewards import named
from model.tokenizer import BEGIN_SOLUTION, END_SOLUTION, encode, encode_chat

BLANK = re.compile(r"\n[^\S\n]*\n")


def tokens(tokenizer: PreTrainedTokenizerBase, problem: named.Problem, form: Form) -> list[int]:
    """Token ids of the prompt that a problem becomes."""
    messages = data.prompt_messages(problem)
    if form == "chat":
        return encode_chat(tokenizer, messages)
    return plain(tokenizer, "\n\n".join(message["content"] for message in messages))


def plain(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of a text as in pretraining: text that looks like a special token stays text."""
    return encode(tokenizer, [text])[0]


def is_right(response: str, problem: named.Problem, form: Form) -> bool:
    """Whether a response is right (`named.is_right`)."""
    return named.is_right(delimited(response, problem, form), problem)


def solution(response: str, problem: named.Problem, form: Form) -> str | None:
    """The part of a response that is judged, or None if it has no solution."""
    return named.solution(delimited(response, problem, form))


def delimited(response: str, problem: named.Problem, form: Form) -> str:
    """A response with its solution between delimiters, as `components.rewards.named` expects."""
    if form == "chat":
        return response
    read = READERS.get(problem["verifier"], last_result)
    return f"{BEGIN_SOLUTION}{read(response)}{END_SOLUTION}"


def last_result(text: str) -> str:
    """The text after the last `=` of the first line that is not blank, or that whole line."""
    return first_line(text).rpartition("=")[2].strip()


def first_line(text: str) -> str:
    """The first line that is not blank."""
    return next((line for line in text.split("\n") if line.strip()), "")


def first_paragraph(text: str) -> str:
    """The text before the first blank line behind it."""
    return BLANK.split(text.lstrip(), maxsplit=1)[0]


def whole(text: str) -> str:
    """The text itself."""
    return text


READERS: dict[str, Callable[[str], str]] = {
    "code": whole,
    "countdown": first_line,
    "sudoku": first_paragraph,
}
"""Which part of a plain text is judged, by verifiers that do not judge the last result."""
