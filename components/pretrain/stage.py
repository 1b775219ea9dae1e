"""Continues masked-diffusion pretraining on plain text: load, feed, train, save, record."""

import functools

import torch

from components.artifact import Input, Output
from components.data.token_shards import Shards
from components.pretrain.config import PretrainConfig
from components.pretrain.packing import Windows
from components.session.session import (
    LossByRatio,
    check_context,
    open_base,
    to_device,
    train_and_record,
)
from model import diffusion
from model.training import loop
from model.training.draws import Draw
from model.training.protocols import Feed


def run(
    config: PretrainConfig, *, base: Input, dataset: Input, trained: Output, metrics: Output
) -> None:
    """Trains `base` on the dataset's plain text with the masked-diffusion loss."""
    check_context(base, "window", config.window, config.context)
    opened = model, _, tokenizer = open_base(base, config, context=config.context, new_tokens=False)
    shards = Shards(dataset / "pretrain", tokenizer)
    windows = Windows(shards, config.window, pad=tokenizer.pad_token_id, seed=config.seed)
    losses = LossByRatio()

    def loss(batch: dict[str, torch.Tensor], draw: Draw) -> torch.Tensor:
        batch = to_device(batch, model)
        return diffusion.pretraining_loss(
            model,
            batch["tokens"],
            batch["real"],
            documents_BL=batch["documents"],
            options=config.objective,
            progress=draw.progress,
            observe=losses.observe,
            generator=draw,
        )

    train_and_record(
        "pretrain",
        config,
        opened,
        functools.partial(loop.fit, model, Feed(len(windows), windows.collate), loss, config),
        inputs={"base": base, "dataset": dataset},
        trained=trained,
        metrics=metrics,
        watch=losses.take,
        summary={"windows": len(windows), "useful_positions": windows.useful},
    )
