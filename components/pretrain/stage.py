"""Continues masked-diffusion pretraining on plain text: load, feed, train, save, record."""

import functools

import torch

from components import adapted
from components.artifact import Input, Inputs, Output
from components.data.token_shards import Shards
from components.pretrain.config import PretrainConfig
from components.pretrain.packing import Windows
from components.session.attempts import remembered
from components.session.session import (
    check_context,
    keep_progress,
    open_base,
    record,
    save_trained,
    to_device,
)
from model import diffusion
from model.llada import LLaDA
from model.training import loop
from model.training.draws import Draw
from model.training.figures import Figures
from model.training.protocols import Feed


@remembered
def run(
    config: PretrainConfig,
    *,
    base: Input,
    adapters: Inputs = (),
    dataset: Input,
    trained: Output,
    metrics: Output,
) -> None:
    """Trains `base` on the dataset's plain text with the masked-diffusion loss."""
    # Load
    check_context(base, "window", config.window, config.context, adapters=adapters)
    session = open_base(base, config, adapters=adapters, context=config.context, new_tokens=False)
    model, _, tokenizer = session

    # Feed
    shards = Shards(dataset / "pretrain", tokenizer)
    windows = Windows(shards, config.window, pad=tokenizer.pad_token_id, seed=config.seed)
    feed = Feed(len(windows), windows.collate)
    loss = functools.partial(_loss, model, config)

    # Train
    inputs = {"base": base, **adapted.named(adapters), "dataset": dataset}
    with keep_progress("pretrain", config, inputs=inputs, metrics=metrics) as progress:
        loop.fit(
            model,
            feed,
            loss,
            config,
            progress.log,
            checkpoints=progress.checkpoints,
            snapshot=progress.snapshot,
        )

    # Save
    save_trained(session, trained)

    # Record
    summary = {"windows": len(windows), "useful_positions": windows.useful}
    record(progress, trained, summary=summary)


def _loss(
    model: LLaDA, config: PretrainConfig, batch: dict[str, torch.Tensor], draw: Draw
) -> Figures:
    """The figures of a micro-batch of packed rows."""
    batch = to_device(batch, model)
    denoised = diffusion.denoise(
        model,
        batch["tokens"],
        batch["real"],
        documents_BL=batch["documents"],
        options=config.objective,
        progress=draw.progress,
        generator=draw,
    )
    return {
        "loss": denoised.mean_by_token(batch["real"]),
        "loss_by_ratio": denoised.loss_by_ratio(),
    }
