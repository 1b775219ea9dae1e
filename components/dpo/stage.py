"""Optimizes preferences with variance-reduced ELBOs: load, feed, train, save, record.

The policy is the base with its adapter, the reference the same network with the adapter off.
"""

import functools
from pathlib import Path

import torch

from components import artifact
from components.artifact import Input, Output
from components.data import dataset as data
from components.dpo import pairs
from components.dpo.config import DpoConfig
from components.dpo.reference import ReferenceMargins
from components.session.session import check_context, open_base, to_device, train_and_record
from model import diffusion, estimators, preference
from model.attention import training_kernels
from model.training import loop, optimizer
from model.training.draws import Draw
from model.training.protocols import Batch, Feed, Figures


def run(
    config: DpoConfig, *, base: Input, dataset: Input, trained: Output, metrics: Output
) -> None:
    """Trains an adapter on `base` to prefer each pair's chosen answer over the rejected one."""
    check_context(base, "max_length", config.max_length)
    opened = model, wrapped, tokenizer = open_base(base, config)
    assert wrapped is not None and config.lora is not None, (
        "DpoConfig refuses a run without an adapter"
    )
    usable, dropped = pairs.read(data.read(dataset, "preferences"), tokenizer, config.max_length)
    known = None
    if config.reference_cache is not None:
        arithmetic = (optimizer.arithmetic(config), config.lora.quantized, model.device.type)
        context = (artifact.read(base)["fingerprint"], config.seed, config.length_normalized)
        place = Path(config.reference_cache)
        known = ReferenceMargins(place, *context, *arithmetic, draws=config.draws)

    def collate(draw: Draw) -> Batch:
        chosen = [usable[number] for number in draw.picked]
        batch = pairs.pad(chosen, tokenizer.eos_token_id)
        if not config.sft_weight:
            return batch
        # The plain loss is SFT's, and so is its canvas: that of the whole step.
        longest = max(len(usable[n].prompt) + len(usable[n].chosen) for n in draw.examples)
        plain = pairs.pad_chosen(chosen, tokenizer.eos_token_id, longest)
        return Batch({**batch.tensors, **plain}, batch.tokens)

    def loss(batch: dict[str, torch.Tensor], draw: Draw) -> Figures:
        chosen = [usable[number] for number in draw.picked]
        batch = to_device(batch, model)
        tokens, answer, seen = batch["tokens"], batch["answer"], batch["attention"]
        if known is None:
            views = estimators.monte_carlo(answer, draws=config.draws, generator=draw.twice())
        else:
            views = known.views(chosen, answer)

        def margin() -> torch.Tensor:
            """Chosen minus rejected ELBO of each pair [B]."""
            elbo_B = preference.elbo(model, tokens, seen, views)
            if config.length_normalized:
                elbo_B = elbo_B / answer.sum(1)
            better_B, worse_B = elbo_B.chunk(2)
            return better_B - worse_B

        @torch.no_grad()
        def reference() -> torch.Tensor:
            with wrapped.disable_adapter(), training_kernels(model.device):
                return margin()

        reference_B = known.margins(chosen, reference) if known is not None else reference()
        margin_B = margin() - reference_B.to(model.device)
        value = preference.dpo_loss(
            margin_B, beta=config.beta, kind=config.loss, label_smoothing=config.label_smoothing
        ).mean()
        if config.sft_weight:
            plain = diffusion.sft_loss(
                model,
                batch["plain_tokens"],
                batch["plain_answer"],
                generator=draw.of("plain"),
            )
            value = value + config.sft_weight * plain
        return {
            "loss": value,
            "margin": margin_B.detach().mean(),
            "accuracy": (margin_B.detach() > 0).float().mean(),
        }

    train_and_record(
        "dpo",
        config,
        opened,
        functools.partial(loop.fit, model, Feed(len(usable), collate), loss, config),
        inputs={"base": base, "dataset": dataset},
        trained=trained,
        metrics=metrics,
        summary={"pairs": len(usable), **dropped},
    )
