"""Preference pairs as token ids: read, checked and padded.

A pair's ELBO must not depend on its batch, so each answer has one EOS of its own, and the padding
behind it is neither seen nor scored.
Shapes: B pairs, L length.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerBase

from components.data import dataset as data
from components.sft.dialogues import pad_dialogues
from model.tokenizer import encode_answer, encode_chat
from model.training.protocols import Batch

SIDES = ("chosen", "rejected")


@dataclass(frozen=True)
class Pair:
    """A prompt with the chosen and the rejected answer, each closed by EOS."""

    prompt: list[int]
    chosen: list[int]
    rejected: list[int]

    def key(self, *context: object) -> str:
        """A fingerprint of the pair's content and of `context`, the rest that decides a value."""
        content = json.dumps([self.prompt, self.chosen, self.rejected, *context])
        return hashlib.sha256(content.encode()).hexdigest()


def read(
    rows: list[dict], tokenizer: PreTrainedTokenizerBase, max_length: int
) -> tuple[list[Pair], dict[str, int]]:
    """The usable pairs, and how many rows were dropped for each reason.

    Raises ValueError when no pair is left.
    """
    pairs, dropped = [], Counter({"empty": 0, "identical": 0, "too_long": 0})
    for row in rows:
        prompt = encode_chat(tokenizer, data.prompt_messages(row))
        chosen, rejected = (
            [*encode_answer(tokenizer, row[side]), tokenizer.eos_token_id] for side in SIDES
        )
        if not all(row[part].strip() for part in ("prompt", *SIDES)):
            dropped["empty"] += 1
        elif chosen == rejected:
            dropped["identical"] += 1
        elif len(prompt) + max(len(chosen), len(rejected)) > max_length:
            dropped["too_long"] += 1
        else:
            pairs.append(Pair(prompt, chosen, rejected))
    if not pairs:
        reasons = ", ".join(f"{count} {reason}" for reason, count in dropped.items())
        raise ValueError(f"preferences.jsonl: no usable pair; dropped: {reasons}")
    return pairs, {f"dropped_{reason}": count for reason, count in dropped.items()}


def pad(pairs: Sequence[Pair], eos: int) -> Batch:
    """tokens, attention and answer [2B, L]: the chosen answers, then the rejected ones."""
    rows = [(pair.prompt, getattr(pair, side)) for side in SIDES for pair in pairs]
    length = max(len(prompt) + len(answer) for prompt, answer in rows)
    tokens = torch.full((len(rows), length), eos)
    answer_BL, seen_BL = torch.zeros(2, len(rows), length, dtype=torch.bool)
    for row, (prompt, answer) in enumerate(rows):
        end = len(prompt) + len(answer)
        tokens[row, :end] = torch.tensor(prompt + answer)
        answer_BL[row, len(prompt) : end] = True
        seen_BL[row, :end] = True
    tensors = {"tokens": tokens, "answer": answer_BL, "attention": seen_BL}
    return Batch(tensors, int(seen_BL.sum()))


def pad_chosen(pairs: Sequence[Pair], eos: int, length: int) -> dict[str, torch.Tensor]:
    """plain_tokens and plain_answer [B, L] of the chosen answers, padded as in SFT.

    The EOS up to `length` is learnt with the answer, so that no count of masks tells where it ends.
    """
    batch = pad_dialogues([(pair.prompt, pair.chosen) for pair in pairs], eos, length)
    return {f"plain_{name}": tensor for name, tensor in batch.tensors.items()}
