"""The one optimization loop, with the loss as an argument.

What an example is and what its loss means are the caller's, and so is where checkpoints are kept.
GRPO and DPO, which step by themselves, take the pieces of `model.training.optimizer`.
"""

import math
import time
from contextlib import nullcontext
from typing import Any, NoReturn

import torch
from accelerate import Accelerator
from torch import nn

from model.llada import LLaDA
from model.training import draws, optimizer, throughput
from model.training.config import Training
from model.training.draws import Draw, Order
from model.training.optimizer import accelerate, clipped_step, optimizer_for
from model.training.preemption import Interruption, Preempted
from model.training.protocols import Checkpoints, Feed, Figures, Log, Loss, Snapshot

TOLERATED = 2  # steps in a row without a finite loss or gradient; one more ends the run


def fit(
    model: LLaDA,
    feed: Feed,
    loss: Loss,
    settings: Training,
    log: Log,
    *,
    checkpoints: Checkpoints | None = None,
    snapshot: Snapshot | None = None,
) -> None:
    """Trains to step `settings.steps`, from `snapshot` where there is one.

    A loss is a scalar, or scalars by name of which "loss" is trained and the others are logged.
    `log` gets one record a step: step, loss (of the whole batch, however it is shared out), tokens,
    their speed, gradient_norm, learning_rate, skipped_steps, peak_memory_bytes, and where
    they are known validation_loss and mfu. A step whose loss or gradient is not finite changes no
    weight; three in a row raise FloatingPointError naming their examples. SIGTERM saves and raises
    Preempted. Raises ValueError when the batch cannot be shared out among the processes.
    """
    loop = Loop(model, feed, loss, settings, checkpoints)
    if snapshot is not None:
        loop.restore(snapshot)
    with Interruption() as loop.interruption:
        loop.run(log)
    model.eval()


class Objective(nn.Module):
    """The loss as a module: gradients of several processes meet in its forward and backward."""

    def __init__(self, model: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, tensors: dict[str, torch.Tensor], draw: Draw) -> Figures:
        """The loss of a micro-batch, and what else is logged of it."""
        found = self.loss(tensors, draw)
        return found if isinstance(found, dict) else {"loss": found}


class Loop:
    """The state of a training run, and how it goes on by a step."""

    interruption: Interruption

    def __init__(
        self,
        model: LLaDA,
        feed: Feed,
        loss: Loss,
        settings: Training,
        checkpoints: Checkpoints | None,
    ) -> None:
        self.model, self.feed, self.settings, self.checkpoints = model, feed, settings, checkpoints
        self.accelerator: Accelerator = accelerate(settings)
        self.micro_batches = settings.batch_size // settings.micro_batch_size
        self.device = optimizer.device_of(self.accelerator)
        self.rank, self.world = self.accelerator.process_index, self.accelerator.num_processes
        if self.micro_batches % self.world:
            wanted = settings.micro_batch_size * self.world
            raise ValueError(
                f"batch_size={settings.batch_size}, allowed: a multiple of {wanted}, "
                f"micro_batch_size times {self.world} processes"
            )
        self.trained_on = feed.count - settings.validation_examples
        if self.trained_on < 1:
            held = f"validation_examples={settings.validation_examples}"
            raise ValueError(f"{held}, allowed: fewer than the {feed.count} examples")
        blocks = list(model.model["transformer"]["blocks"])
        shard = settings.parallel == "shard"
        self.objective = optimizer.parallelize(
            Objective(model, loss), blocks, self.accelerator, shard=shard
        )
        self.keeps_gradients = self.world > 1 and not shard
        self.optimizer, self.schedule = optimizer_for(model, settings)
        self.order = Order(self.trained_on, settings.batch_size, settings.seed)
        self.peak_flops = throughput.peak_flops(self.device)
        self.step, self.saved, self.skipped = 0, 0, 0
        self.bad: list[list[int]] = []  # examples of the steps in a row that were not finite
        self.pending: dict[str, Any] | None = None  # a step's record before its validation

    def restore(self, snapshot: Snapshot) -> None:
        """Takes up a saved state."""
        facts = snapshot.facts
        self.step = self.saved = facts["step"]
        optimizer.restore(self.model, self.optimizer, self.schedule, snapshot.tensors, self.step)
        self.skipped, self.bad, self.pending = facts["skipped"], facts["bad"], facts["pending"]

    def run(self, log: Log) -> None:
        """Goes on to the last step."""
        self.model.train()
        if self.pending is not None:
            self._finish(log)
        while self.step < self.settings.steps:
            self.pending = self._advance()
            self.step += 1
            self._finish(log)
            if len(self.bad) > TOLERATED:
                raise FloatingPointError(self._complaint())
            if self.checkpoints and self._agree(self.checkpoints.is_due(self.step)):
                self._save()

    def _advance(self) -> dict[str, Any]:
        """One optimizer step; returns its record."""
        started = time.perf_counter()
        examples = self.order.batch(self.step)
        size, parts, tokens = self.settings.micro_batch_size, [], 0
        for first in range(0, self.micro_batches, self.world):
            index = first + self.rank
            is_last = first + self.world == self.micro_batches
            places = range(index * size, (index + 1) * size)
            found, count = self._gather(*self._backward(examples, places, is_last))
            parts += found
            tokens += count
        losses = [part["loss"] for part in parts]
        totals = {name: sum(part[name] for part in parts) for name in parts[0]}
        figures = self._update(totals["loss"])
        if "loss" in figures:
            self.bad = []
            figures = {**totals, **figures}
        else:
            self.skipped += 1
            bad = [examples[n * size : (n + 1) * size] for n in _not_finite(losses)]
            self.bad.append([number for part in bad for number in part] or examples)
        return {
            "step": self.step + 1,
            **figures,
            **self._speed(tokens, time.perf_counter() - started),
            "skipped_steps": self.skipped,
        }

    def _backward(self, examples: list[int], places: range, is_last: bool) -> tuple[Figures, int]:
        """Gradients of one micro-batch; its part of the step's figures, and its tokens."""
        draw = Draw(
            purpose=draws.NOISE,
            seed=self.settings.seed,
            step=self.step,
            examples=examples,
            places=places,
            progress=self.step / self.settings.steps,
        )
        draws.seed_dropout(draw.key(draws.DROPOUT), self.device)
        is_local = self.keeps_gradients and not is_last
        with self.accelerator.no_sync(self.objective) if is_local else nullcontext():
            found, tokens = self._figures(draw)
            # Between processes gradients are averaged, within one they add up.
            self.accelerator.backward(found["loss"] * self.world)
        return {name: value.detach() for name, value in found.items()}, tokens

    def _figures(self, draw: Draw) -> tuple[Figures, int]:
        """What a micro-batch adds to the figures of its batch, and its tokens."""
        batch = self.feed.collate(draw)
        share = draw.share if batch.share is None else batch.share
        with self.accelerator.autocast():
            found = self.objective(batch.tensors, draw)
        return {name: value * share for name, value in found.items()}, batch.tokens

    def _update(self, loss: float) -> dict[str, float]:
        """The optimizer step unless the loss is not finite; the record lacks what is not."""
        if not math.isfinite(loss):
            rate = self.optimizer.param_groups[0]["lr"]
            self.optimizer.zero_grad()
            self.schedule.step()
            return {"learning_rate": rate}
        figures = clipped_step(
            self.accelerator, self.model, self.optimizer, self.schedule, self.settings
        )
        if not math.isfinite(figures["gradient_norm"]):
            return {"learning_rate": figures["learning_rate"]}
        return {"loss": loss, **figures}

    def _speed(self, tokens: int, seconds: float) -> dict[str, float]:
        figures: dict[str, float] = {"tokens": tokens, "tokens_per_second": tokens / seconds}
        if self.peak_flops is not None:
            each = throughput.flops_per_token(self.model, tokens / self.settings.batch_size)
            figures["mfu"] = tokens * each / seconds / (self.peak_flops * self.world)
        return {**figures, "peak_memory_bytes": throughput.peak_memory(self.device)}

    def _finish(self, log: Log) -> None:
        """Validates where it is time, and hands on the step's record."""
        assert self.pending is not None
        settings = self.settings
        is_time = self.step % settings.validation_steps == 0 or self.step == settings.steps
        if settings.validation_examples and is_time:
            self.pending["validation_loss"] = self._validate()
        log(self.pending)
        self.pending = None

    @torch.no_grad()
    def _validate(self) -> float:
        """The loss of the held-out examples, batch by batch, with the same noise every time."""
        held = range(self.trained_on, self.feed.count)
        parts = draws.validation(held, self.settings)
        self.model.eval()
        losses: list[float] = []
        for first in range(0, len(parts), self.world):
            index = (first + self.rank) % len(parts)  # one too many is computed and dropped
            losses += [part["loss"] for part in self._gather(*self._figures(parts[index]))[0]]
        self.model.train()
        weighed = zip(losses, parts, strict=False)
        return sum(loss * len(part.examples) for loss, part in weighed) / len(held)

    def _gather(self, found: Figures, tokens: int) -> tuple[list[dict[str, float]], int]:
        """The figures of all processes in the micro-batches' order, and the sum of their tokens.

        Where one of the processes was asked to stop, all do.
        """
        asked = self.interruption.asked
        if self.world == 1:
            parts = [{name: value.item() for name, value in found.items()}]
        else:
            rows = torch.zeros(self.world + 1, max(len(found), 2), dtype=torch.float64)
            rows[self.rank, : len(found)] = torch.stack([*found.values()]).double()
            rows[-1, :2] = torch.tensor([tokens, asked])
            *shares, last = self.accelerator.reduce(rows.to(self.device)).tolist()
            parts = [dict(zip(found, share, strict=False)) for share in shares]
            tokens, asked = int(last[0]), bool(last[1])
        if asked:
            self._stop()
        return parts, tokens

    def _agree(self, wish: bool) -> bool:
        """The first process's wish: clocks differ."""
        if self.world == 1:
            return wish
        ours = torch.tensor([float(wish and self.rank == 0)], device=self.device)
        return bool(self.accelerator.reduce(ours).item())

    def _stop(self) -> NoReturn:
        """Saves the last whole step and raises; what the passes of a part of a step did is lost."""
        self.optimizer.zero_grad()
        if self.checkpoints is None:
            raise Preempted(
                f"stopped after step {self.step}; without checkpoint_uri nothing is kept"
            )
        if self.step > self.saved:
            self._save()
        raise Preempted(f"stopped, step {self.step} is saved; the same command goes on from there")

    def _save(self) -> None:
        assert self.checkpoints is not None
        facts = {
            "step": self.step,
            "skipped": self.skipped,
            "bad": self.bad,
            "pending": self.pending,
        }
        self.checkpoints.save(self.step, optimizer.state(self.model, self.optimizer), facts)
        self.saved = self.step

    def _complaint(self) -> str:
        first = self.step - len(self.bad) + 1
        return (
            f"steps {first} to {self.step}: the loss or its gradient is not finite; "
            f"examples by step: {self.bad}"
        )


def _not_finite(losses: list[float]) -> list[int]:
    return [number for number, loss in enumerate(losses) if not math.isfinite(loss)]
