"""Optimizes preferences with variance-reduced ELBOs: load, feed, train, save, record."""

from collections.abc import Sequence
from pathlib import Path

from components import adapted, artifact
from components.artifact import Input, Inputs, Output
from components.data import dataset as data
from components.dpo import pairs
from components.dpo.config import DpoConfig
from components.dpo.loss import PreferenceLoss
from components.dpo.reference import ReferenceMargins
from components.session.attempts import remembered
from components.session.session import (
    Session,
    check_context,
    keep_progress,
    open_base,
    record,
    save_trained,
)
from model.training import loop, optimizer
from model.training.draws import Draw
from model.training.protocols import Batch, Feed


@remembered
def run(
    config: DpoConfig,
    *,
    base: Input,
    adapters: Inputs = (),
    dataset: Input,
    trained: Output,
    metrics: Output,
) -> None:
    """Trains an adapter on `base` to prefer each pair's chosen answer over the rejected one."""
    # Load
    check_context(base, "max_length", config.max_length, adapters=adapters)
    session = open_base(base, config, adapters=adapters)
    model, adapter, tokenizer = session
    assert adapter is not None, "DpoConfig refuses a run without an adapter"

    # Feed
    usable, dropped = pairs.read(data.read(dataset, "preferences"), tokenizer, config.max_length)

    def collate(draw: Draw) -> Batch:
        members = [usable[number] for number in draw.micro_batch]
        batch = pairs.pad(members, tokenizer.eos_token_id)
        if not config.sft_weight:
            return batch
        # The plain loss is SFT's, and so is its length: that of the whole step.
        longest = max(len(usable[n].prompt) + len(usable[n].chosen) for n in draw.examples)
        plain = pairs.pad_chosen(members, tokenizer.eos_token_id, longest)
        return Batch({**batch.tensors, **plain}, batch.tokens)

    feed = Feed(len(usable), collate)
    cache = _reference_cache(config, (base, *adapters), session)
    loss = PreferenceLoss(model, adapter, usable, config, cache)

    # Train
    inputs = {"base": base, **adapted.named(adapters), "dataset": dataset}
    with keep_progress("dpo", config, inputs=inputs, metrics=metrics) as progress:
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
    record(progress, trained, summary={"pairs": len(usable), **dropped})


def _reference_cache(
    config: DpoConfig, models: Sequence[Path], session: Session
) -> ReferenceMargins | None:
    """The store of the reference's margins, keyed by everything that decides them, or None."""
    if config.reference_cache is None:
        return None
    assert config.lora is not None
    return ReferenceMargins(
        Path(config.reference_cache),
        " ".join(artifact.read(path)["fingerprint"] for path in models),
        config.seed,
        config.length_normalized,
        optimizer.arithmetic(config),
        config.lora.quantized,
        session.model.device.type,
        draws=config.draws,
    )
