"""Dialogues as pairs of prompt and answer, and the batches that training draws from them.

Shapes: B batch, L length; answers are padded with EOS.
"""

import torch
from transformers import PreTrainedTokenizerBase

from model.options import check
from model.tokenizer import encode_answer, encode_chat
from model.training.protocols import Batch


def answers(rows: list[dict]) -> int:
    """The number of assistant turns: each is an answer to learn."""
    return sum(message["role"] == "assistant" for row in rows for message in row["messages"])


def dialogues(
    rows: list[dict], tokenizer: PreTrainedTokenizerBase, max_length: int
) -> list[tuple[list[int], list[int]]]:
    """(prompt, answer) ids of each assistant turn, but for those longer than `max_length`.

    Raises ValueError where none is left.
    """
    pairs = []
    for row in rows:
        for turn, message in enumerate(row["messages"]):
            if message["role"] == "assistant":
                prompt = encode_chat(tokenizer, row["messages"][:turn])
                pairs.append((prompt, encode_answer(tokenizer, message["content"])))
    short = [pair for pair in pairs if len(pair[0]) + len(pair[1]) <= max_length]
    if not short:
        raise ValueError(f"max_length={max_length}: no example is that short")
    return short


def pad_dialogues(items: list[tuple[list[int], list[int]]], eos: int, length: int) -> Batch:
    """tokens, answer [B, length]: each prompt, its answer, and EOS up to `length`.

    The EOS behind an answer belongs to it, as in LLaDA's recipe: the model learns to end. Raises
    ValueError when a row is longer than `length`.
    """
    tokens = torch.full((len(items), length), eos)
    is_answer = torch.ones(len(items), length, dtype=torch.bool)
    for row, (prompt, answer) in enumerate(items):
        ids = prompt + answer
        check("length", length, len(ids) <= length, f"{len(ids)} or more, a row's own")
        tokens[row, : len(ids)] = torch.tensor(ids)
        is_answer[row, : len(prompt)] = False
    return Batch({"tokens": tokens, "answer": is_answer}, tokens.numel())
