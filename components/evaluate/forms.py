"""The two forms in which a problem is put to a model, and where its solution stands in each.

chat  A turn of a chat in the model's template. The solution stands between its delimiters.
text  The problem's own text and nothing else, for a base model to go on with: in pretraining a
      document begins with its first word and ends with EOS. The solution is the last result of the
      first line, so that a model is asked for no form that it was not taught; tests run the whole.
"""

from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedTokenizerBase

from components.data import dataset as data
from components.rewards import named
from model.tokenizer import BEGIN_SOLUTION, END_SOLUTION, encode, encode_chat


def tokens(tokenizer: PreTrainedTokenizerBase, problem: Mapping[str, Any], form: str) -> list[int]:
    """Token ids of a problem as the model is asked it."""
    messages = data.prompt_messages(problem)
    if form == "chat":
        return encode_chat(tokenizer, messages)
    return plain(tokenizer, "\n\n".join(message["content"] for message in messages))


def plain(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of a text as in pretraining: what looks like a special token is text."""
    return encode(tokenizer, [text])[0]


def delimited(response: str, problem: Mapping[str, Any], form: str) -> str:
    """A response as `components.rewards.named` reads it, with its solution between delimiters."""
    if form == "chat":
        return response
    result = response if problem["verifier"] == "code" else last_result(response)
    return f"{BEGIN_SOLUTION}{result}{END_SOLUTION}"


def solution(response: str, problem: Mapping[str, Any], form: str) -> str | None:
    """What is judged of a response, or None where it gives no solution."""
    return named.solution(delimited(response, problem, form))


def last_result(text: str) -> str:
    """What stands behind the last `=` of the first line with a word in it, or that whole line."""
    line = next((line for line in text.split("\n") if line.strip()), "")
    return line.rpartition("=")[2].strip()
