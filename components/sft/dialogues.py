"""Dialogues as pairs of prompt and answer, and the batches that training draws from them.

Shapes: B batch, L length; answers are padded with EOS.
"""

import torch
from transformers import PreTrainedTokenizerBase

from model.tokenizer import encode_answer, encode_chat
from model.training.protocols import Batch


def answers(rows: list[dict]) -> int:
    """How many assistant turns there are: each is a target of its own."""
    return sum(message["role"] == "assistant" for row in rows for message in row["messages"])


def dialogues(
    rows: list[dict], tokenizer: PreTrainedTokenizerBase, max_length: int
) -> list[tuple[list[int], list[int]]]:
    """(prompt, answer) ids of each assistant turn; longer ones than `max_length` are dropped."""
    pairs = []
    for row in rows:
        for turn, message in enumerate(row["messages"]):
            if message["role"] == "assistant":
                prompt = encode_chat(tokenizer, row["messages"][:turn])
                pairs.append((prompt, encode_answer(tokenizer, message["content"])))
    return kept([pair for pair in pairs if len(pair[0]) + len(pair[1]) <= max_length], max_length)


def kept(items: list, max_length: int) -> list:
    """The items, or ValueError when the length limit left none."""
    if not items:
        raise ValueError(f"max_length={max_length}: no example is that short")
    return items


def pad_dialogues(items: list[tuple[list[int], list[int]]], eos: int, length: int) -> Batch:
    """tokens, answer [B, length]: each prompt, its answer, and EOS up to `length`.

    The EOS behind an answer belongs to it, as in LLaDA's recipe: the model learns to end. Raises
    ValueError when a row is longer than `length`.
    """
    tokens = torch.full((len(items), length), eos)
    is_answer = torch.ones(len(items), length, dtype=torch.bool)
    for row, (prompt, answer) in enumerate(items):
        own = prompt + answer
        if len(own) > length:
            raise ValueError(f"length={length}, allowed: {len(own)} or more, a row's own")
        tokens[row, : len(own)] = torch.tensor(own)
        is_answer[row, : len(prompt)] = False
    return Batch({"tokens": tokens, "answer": is_answer}, tokens.numel())
