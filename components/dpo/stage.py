"""Optimises preferences with variance-reduced ELBOs: load, feed, train, save, record.

Each draw is backpropagated alone (`model.preference`), so this stage steps by itself instead of
handing one loss to the shared loop.
"""

import dataclasses
import time
from typing import Any

import torch

from components import artifact
from components import dataset as data
from components.artifact import Input, Output
from components.dpo.config import DpoConfig
from components.metrics import MetricsLog
from components.training import open_base, save_trained, to_device
from model import diffusion, preference, tokenizer, train


def run(
    config: DpoConfig, *, base: Input, dataset: Input, adapter: Output, metrics: Output
) -> None:
    """Trains an adapter on `base` to prefer each pair's chosen answer over the rejected one."""
    model, wrapped, words = open_base(base, config)
    assert wrapped is not None, "DpoConfig refuses a run without an adapter"
    pairs = _pairs(data.read(dataset, "preferences"), words, config.max_length)
    noise = torch.Generator(model.device).manual_seed(config.seed)
    accelerator = train.accelerate(config)
    optimiser, schedule = train.optimiser_for(model, config)
    accumulate = config.batch_size // config.micro_batch_size
    picks = data.shuffled(len(pairs), config.micro_batch_size, seed=config.seed)

    def half(picked: list[int], side: str) -> data.Batch:
        items = [pairs[index][side] for index in picked]
        longest = max(len(answer) for _, answer in items)
        return data.pad_dialogues(items, words.eos_token_id, longest + 1)

    def micro_step(picked: list[int]) -> dict[str, float]:
        """Gradients of one micro-batch; returns its figures."""
        batches = {side: half(picked, side) for side in ("chosen", "rejected")}
        sides = {side: to_device(batch.tensors, model) for side, batch in batches.items()}
        noises = {
            side: preference.draw_noise(tensors["answer"], config.draws, generator=noise)
            for side, tensors in sides.items()
        }

        def elbo(side: str, number: int) -> torch.Tensor:
            tensors = sides[side]
            with accelerator.autocast():
                return preference.elbo(
                    model,
                    tensors["tokens"],
                    tensors["answer"],
                    tensors["attention"],
                    *noises[side][number],
                )

        margin_B = preference.backward_dpo(
            lambda number: elbo("chosen", number),
            lambda number: elbo("rejected", number),
            wrapped.disable_adapter,
            config.draws,
            beta=config.beta,
            scale=1 / accumulate,
            backward=accelerator.backward,
        )
        loss = float(preference.dpo_loss(margin_B, beta=config.beta))
        if config.sft_weight:
            chosen = sides["chosen"]
            with accelerator.autocast():
                plain = diffusion.sft_loss(
                    model,
                    chosen["tokens"],
                    chosen["answer"],
                    attention_mask_BL=chosen["attention"],
                    generator=noise,
                )
            accelerator.backward(config.sft_weight * plain / accumulate)
            loss += config.sft_weight * float(plain.detach())
        return {
            "loss": loss / accumulate,
            "margin": float(margin_B.mean()) / accumulate,
            "accuracy": float((margin_B > 0).float().mean()) / accumulate,
            "tokens": sum(batch.tokens for batch in batches.values()),
        }

    def step() -> dict[str, Any]:
        started = time.perf_counter()
        parts = [micro_step(next(picks)) for _ in range(accumulate)]
        figures = {name: sum(part[name] for part in parts) for name in parts[0]}
        figures |= train.update(accelerator, model, optimiser, schedule, config)
        speed = figures["tokens"] / (time.perf_counter() - started)
        return {**figures, "tokens_per_second": speed}

    model.train()
    with MetricsLog(
        metrics, stage="dpo", total=config.steps, config=dataclasses.asdict(config)
    ) as log:
        for number in range(1, config.steps + 1):
            log({"step": number, **step()})
    save_trained(model, wrapped, words, adapter)
    artifact.record(
        {"adapter": adapter, "metrics": metrics},
        stage="dpo",
        config=config,
        inputs={"base": base, "dataset": dataset},
        summary={**log.summary(), "pairs": len(pairs)},
    )


def _pairs(rows: list[dict], words: Any, max_length: int) -> list[dict[str, Any]]:
    """(prompt, answer) ids of both sides; pairs with an over-long side are dropped."""
    found = []
    for row in rows:
        prompt = tokenizer.chat(words, [{"role": "user", "content": row["prompt"]}])
        pair = {
            side: (prompt, tokenizer.answer(words, row[side])) for side in ("chosen", "rejected")
        }
        if all(len(prompt) + len(answer) <= max_length for _, answer in pair.values()):
            found.append(pair)
    return data.kept(found, max_length)
