"""Continues masked-diffusion pretraining on plain text: load, feed, train, save, record."""

import dataclasses
from collections.abc import Iterator

import torch

from components import artifact
from components import dataset as data
from components.artifact import Input, Output
from components.metrics import MetricsLog
from components.packing import Windows
from components.pretrain.config import PretrainConfig
from components.shards import Shards
from components.training import open_base, save_trained, to_device
from model import diffusion, train


def run(
    config: PretrainConfig, *, base: Input, dataset: Input, adapter: Output, metrics: Output
) -> None:
    """Trains `base` on the dataset's plain text with the masked-diffusion loss."""
    model, wrapped, words = open_base(base, config)
    shards = Shards(dataset / "pretrain", words)
    windows = Windows(shards, config.window, pad=words.pad_token_id, seed=config.seed)
    noise = torch.Generator(model.device).manual_seed(config.seed)

    def batches() -> Iterator[train.Batch]:
        for picked in data.shuffled(len(windows), config.micro_batch_size, seed=config.seed):
            yield windows.collate(picked)

    def loss(batch: dict[str, torch.Tensor]) -> torch.Tensor:
        batch = to_device(batch, model)
        return diffusion.pretraining_loss(
            model,
            batch["tokens"],
            batch["real"],
            documents_BL=batch["documents"],
            generator=noise,
        )

    with MetricsLog(
        metrics, stage="pretrain", total=config.steps, config=dataclasses.asdict(config)
    ) as log:
        train.fit(model, batches(), loss, config, log)
    save_trained(model, wrapped, words, adapter)
    artifact.record(
        {"adapter": adapter, "metrics": metrics},
        stage="pretrain",
        config=config,
        inputs={"base": base, "dataset": dataset},
        summary={**log.summary(), "windows": len(windows), "useful_positions": windows.useful},
    )
