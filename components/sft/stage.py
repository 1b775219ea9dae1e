"""Fine-tunes on dialogues with a thought and a solution: load, feed, train, save, record."""

import functools

import torch

from components import adapted
from components.artifact import Input, Inputs, Output
from components.data import dataset as data
from components.session.attempts import remembered
from components.session.session import (
    check_context,
    keep_progress,
    open_base,
    record,
    save_trained,
    to_device,
)
from components.sft.config import SftConfig
from components.sft.dialogues import answers, dialogues, pad_dialogues
from model import diffusion
from model.llada import LLaDA
from model.training import loop
from model.training.draws import Draw
from model.training.figures import Figures
from model.training.protocols import Batch, Feed


@remembered
def run(
    config: SftConfig,
    *,
    base: Input,
    adapters: Inputs = (),
    dataset: Input,
    trained: Output,
    metrics: Output,
) -> None:
    """Trains `base` to denoise the answers of the dataset's dialogues; prompts are never masked."""
    # Load
    check_context(base, "max_length", config.max_length, adapters=adapters)
    session = open_base(base, config, adapters=adapters)
    model, _, tokenizer = session

    # Feed
    rows = data.read(dataset, "sft")[: config.examples]
    pairs = dialogues(rows, tokenizer, config.max_length)
    lengths = [len(prompt) + len(answer) for prompt, answer in pairs]

    def collate(draw: Draw) -> Batch:
        longest = max(lengths[number] for number in draw.examples)
        length = _padded_length(longest, config, draw)
        return pad_dialogues([pairs[n] for n in draw.micro_batch], tokenizer.eos_token_id, length)

    feed = Feed(len(pairs), collate)
    loss = functools.partial(_loss, model, config)

    # Train
    inputs = {"base": base, **adapted.named(adapters), "dataset": dataset}
    with keep_progress("sft", config, inputs=inputs, metrics=metrics) as progress:
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
    summary = {"examples": len(pairs), "too_long": answers(rows) - len(pairs)}
    record(progress, trained, summary=summary)


def _padded_length(longest: int, config: SftConfig, draw: Draw) -> int:
    """The length of all rows of a step; a micro-batch's own would tell its answers' lengths."""
    shortest, most = min(longest + 1, config.max_length), config.max_length
    if config.padding == "batch":
        return shortest
    if config.padding == "max_length":
        return most
    return shortest + int(draw.batch(1).item() * (most - shortest + 1))


def _loss(model: LLaDA, config: SftConfig, batch: dict[str, torch.Tensor], draw: Draw) -> Figures:
    """The figures of a micro-batch of padded dialogues."""
    batch = to_device(batch, model)
    denoised = diffusion.denoise(
        model, batch["tokens"], batch["answer"], options=config.objective, generator=draw
    )
    return {
        "loss": denoised.mean_by_answer(batch["answer"]),
        "loss_by_ratio": denoised.loss_by_ratio(),
    }
