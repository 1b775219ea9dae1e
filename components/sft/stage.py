"""Fine-tunes on dialogues with a thought and a solution: load, feed, train, save, record."""

import functools

import torch

from components.artifact import Input, Output
from components.data import dataset as data
from components.session.session import (
    LossByRatio,
    check_context,
    open_base,
    to_device,
    train_and_record,
)
from components.sft.config import SftConfig
from components.sft.dialogues import answers, dialogues, pad_dialogues
from model import diffusion
from model.training import loop
from model.training.draws import Draw
from model.training.protocols import Batch, Feed


def run(
    config: SftConfig, *, base: Input, dataset: Input, trained: Output, metrics: Output
) -> None:
    """Trains `base` to denoise the answers of the dataset's dialogues; prompts are never masked."""
    check_context(base, "max_length", config.max_length)
    opened = model, _, tokenizer = open_base(base, config)
    rows = data.read(dataset, "sft")[: config.examples]
    pairs = dialogues(rows, tokenizer, config.max_length)
    losses = LossByRatio()

    lengths = [len(prompt) + len(answer) for prompt, answer in pairs]

    def collate(draw: Draw) -> Batch:
        longest = max(lengths[number] for number in draw.examples)
        chosen = [pairs[number] for number in draw.picked]
        return pad_dialogues(chosen, tokenizer.eos_token_id, _padded(longest, config, draw))

    def loss(batch: dict[str, torch.Tensor], draw: Draw) -> torch.Tensor:
        batch = to_device(batch, model)
        return diffusion.sft_loss(
            model,
            batch["tokens"],
            batch["answer"],
            options=config.objective,
            observe=losses.observe,
            generator=draw,
        )

    train_and_record(
        "sft",
        config,
        opened,
        functools.partial(loop.fit, model, Feed(len(pairs), collate), loss, config),
        inputs={"base": base, "dataset": dataset},
        trained=trained,
        metrics=metrics,
        watch=losses.take,
        summary={"examples": len(pairs), "too_long": answers(rows) - len(pairs)},
    )


def _padded(longest: int, config: SftConfig, draw: Draw) -> int:
    """The length of every row of a step: nothing that a micro-batch holds may tell an answer's."""
    shortest, most = min(longest + 1, config.max_length), config.max_length
    if config.padding == "batch":
        return shortest
    if config.padding == "max_length":
        return most
    return shortest + int(draw.batch(1).item() * (most - shortest + 1))
