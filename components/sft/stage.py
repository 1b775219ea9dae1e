"""Fine-tunes on dialogues with a thought and a solution: load, feed, train, save, record."""

import functools

import torch

from components import dataset as data
from components.artifact import Input, Output
from components.sft.config import SftConfig
from components.training import LossByRatio, open_base, to_device, train_and_record
from model import diffusion, train
from model.draws import Draw
from model.feed import Batch, Feed


def run(
    config: SftConfig, *, base: Input, dataset: Input, adapter: Output, metrics: Output
) -> None:
    """Trains `base` to denoise the answers of the dataset's dialogues; prompts are never masked."""
    opened = model, _, words = open_base(base, config)
    rows = data.read(dataset, "sft")[: config.examples]
    dialogues = data.dialogues(rows, words, config.max_length)
    losses = LossByRatio()

    def collate(picked: list[int]) -> Batch:
        chosen = [dialogues[index] for index in picked]
        longest = max(len(answer) for _, answer in chosen)
        return data.pad_dialogues(chosen, words.eos_token_id, longest + 1)

    def loss(batch: dict[str, torch.Tensor], draw: Draw) -> torch.Tensor:
        batch = to_device(batch, model)
        return diffusion.sft_loss(
            model,
            batch["tokens"],
            batch["answer"],
            attention_mask_BL=batch["attention"],
            options=config.objective,
            observe=losses.observe,
            generator=draw.generator,
        )

    train_and_record(
        "sft",
        config,
        opened,
        functools.partial(train.fit, model, Feed(len(dialogues), collate), loss, config),
        inputs={"base": base, "dataset": dataset},
        adapter=adapter,
        metrics=metrics,
        watch=losses.take,
        summary={"examples": len(dialogues), "too_long": data.answers(rows) - len(dialogues)},
    )
