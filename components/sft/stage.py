"""Fine-tunes on dialogues with a thought and a solution: load, feed, train, save, record."""

import dataclasses
from collections.abc import Iterator

import torch

from components import artifact
from components import dataset as data
from components.artifact import Input, Output
from components.metrics import MetricsLog
from components.sft.config import SftConfig
from components.training import open_base, save_trained, to_device
from model import diffusion, train


def run(
    config: SftConfig, *, base: Input, dataset: Input, adapter: Output, metrics: Output
) -> None:
    """Trains `base` to denoise the answers of the dataset's dialogues; prompts are never masked."""
    model, wrapped, words = open_base(base, config)
    rows = data.read(dataset, "sft")[: config.examples]
    dialogues = data.dialogues(rows, words, config.max_length)
    noise = torch.Generator(model.device).manual_seed(config.seed)

    def batches() -> Iterator[train.Batch]:
        for picked in data.shuffled(len(dialogues), config.micro_batch_size, seed=config.seed):
            chosen = [dialogues[index] for index in picked]
            longest = max(len(answer) for _, answer in chosen)
            yield data.pad_dialogues(chosen, words.eos_token_id, longest + 1)

    def loss(batch: dict[str, torch.Tensor]) -> torch.Tensor:
        batch = to_device(batch, model)
        return diffusion.sft_loss(
            model,
            batch["tokens"],
            batch["answer"],
            attention_mask_BL=batch["attention"],
            generator=noise,
        )

    with MetricsLog(
        metrics, stage="sft", total=config.steps, config=dataclasses.asdict(config)
    ) as log:
        train.fit(model, batches(), loss, config, log)
    save_trained(model, wrapped, words, adapter)
    artifact.record(
        {"adapter": adapter, "metrics": metrics},
        stage="sft",
        config=config,
        inputs={"base": base, "dataset": dataset},
        summary={
            **log.summary(),
            "examples": len(dialogues),
            "too_long": data.answers(rows) - len(dialogues),
        },
    )
