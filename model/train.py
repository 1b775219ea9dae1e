"""The one optimisation loop: AdamW on accelerate, with the loss as an argument.

What a batch is and what its loss means are the caller's. GRPO, which generates between its updates,
takes the pieces (`optimiser`, `precision`) and loops by itself.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from model.settings import Optimisation


@dataclass(frozen=True)
class Batch:
    """Tensors of one micro-batch, and how many tokens it holds."""

    tensors: dict[str, torch.Tensor]
    tokens: int


Loss = Callable[[dict[str, torch.Tensor]], torch.Tensor]
Log = Callable[[dict[str, Any]], None]


def fit(
    model: nn.Module, batches: Iterator[Batch], loss: Loss, settings: Optimisation, log: Log
) -> None:
    """Takes `settings.steps` optimiser steps; every step draws its micro-batches from `batches`.

    `log` gets one record a step: step, loss (mean over its micro-batches), tokens, their speed,
    gradient_norm, learning_rate. Raises FloatingPointError when the loss is not finite.
    """
    accelerator = accelerate(settings)
    optimiser, schedule = optimiser_for(model, settings)
    model, optimiser = accelerator.prepare(model, optimiser)
    model.train()
    accumulate = settings.batch_size // settings.micro_batch_size
    for step in range(1, settings.steps + 1):
        started, total, tokens = time.perf_counter(), 0.0, 0
        for _ in range(accumulate):
            batch = next(batches)
            with accelerator.autocast():
                value = loss(batch.tensors)
            accelerator.backward(value / accumulate)
            total += value.item() / accumulate
            tokens += batch.tokens
        if not math.isfinite(total):
            raise FloatingPointError(f"step {step}: the loss is {total}")
        record = update(accelerator, model, optimiser, schedule, settings)
        record["tokens"] = tokens
        speed = tokens / (time.perf_counter() - started)
        log({"step": step, "loss": total, "tokens_per_second": speed, **record})
    model.eval()


def update(accelerator, model, optimiser, schedule, settings: Optimisation) -> dict[str, float]:
    """One clipped optimiser step; returns the gradient's norm and the learning rate."""
    norm = accelerator.clip_grad_norm_(model.parameters(), settings.clip)
    rate = optimiser.param_groups[0]["lr"]
    optimiser.step()
    schedule.step()
    optimiser.zero_grad()
    return {"gradient_norm": float(norm), "learning_rate": rate}


def accelerate(settings: Optimisation) -> Accelerator:
    """An accelerator with the arithmetic that the settings ask for."""
    bf16 = settings.precision == "bf16" or (settings.precision == "auto" and _multiplies_bf16())
    return Accelerator(mixed_precision="bf16" if bf16 else "no")


def _multiplies_bf16() -> bool:
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def optimiser_for(
    model: nn.Module, settings: Optimisation, *, steps: int | None = None
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """Fused AdamW over what is trainable, and linear warmup followed by cosine decay."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(
        trainable,
        lr=settings.learning_rate,
        betas=settings.betas,
        weight_decay=settings.weight_decay,
        fused=True,
    )
    total, warmup = steps or settings.steps, settings.warmup_steps

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        progress = min((step - warmup) / max(total - warmup, 1), 1.0)
        cosine = 0.5 * (1 + math.cos(math.pi * progress))
        return settings.final_learning_rate + (1 - settings.final_learning_rate) * cosine

    return optimiser, torch.optim.lr_scheduler.LambdaLR(optimiser, factor)
