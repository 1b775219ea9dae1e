"""The optimization loop of pretraining, SFT and DPO, with the loss as an argument.

The caller says what an example is, what its loss means and where states are kept. GRPO generates
between its updates, so it has a loop of its own and takes only the pieces of
`model.training.optimizer`.
"""

import math
import time
from contextlib import nullcontext
from typing import Any, NoReturn

import torch
from accelerate import Accelerator
from torch import nn

from model.llada import LLaDA
from model.options import check
from model.training import draws, figures, optimizer, processes, throughput
from model.training.config import Training
from model.training.draws import Draw, Order
from model.training.figures import Figures, Part
from model.training.optimizer import accelerate, clipped_step, optimizer_for
from model.training.preemption import Interruption, Preempted
from model.training.protocols import Feed, Log, Loss, Snapshot, StateStore

TOLERATED = 2  # steps in a row without a finite loss or gradient; one more ends the run


def fit(
    model: LLaDA,
    feed: Feed,
    loss: Loss,
    settings: Training,
    log: Log,
    *,
    checkpoints: StateStore | None = None,
    snapshot: Snapshot | None = None,
) -> None:
    """Trains to step `settings.steps`, from `snapshot` where there is one.

    `log` gets one record a step: step, the figures of the loss (of the whole batch, however it is
    shared out), tokens, their speed, gradient_norm, learning_rate, skipped_steps,
    peak_memory_bytes, and where they are known validation_loss and mfu. A step whose loss or
    gradient is not finite changes no weight; three in a row raise FloatingPointError naming their
    examples. SIGTERM saves and raises Preempted. Raises ValueError when the batch cannot be shared
    out among the processes.
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
        """The figures of a micro-batch, "loss" among them."""
        return self.loss(tensors, draw)


class Loop:
    """The state of a training run, and how it goes on by a step."""

    interruption: Interruption

    def __init__(
        self,
        model: LLaDA,
        feed: Feed,
        loss: Loss,
        settings: Training,
        checkpoints: StateStore | None,
    ) -> None:
        self.model, self.feed, self.settings, self.checkpoints = model, feed, settings, checkpoints
        self.accelerator: Accelerator = accelerate(settings)
        self.micro_batches = settings.batch_size // settings.micro_batch_size
        self.device = optimizer.device_of(self.accelerator)
        self.rank, self.world = self.accelerator.process_index, self.accelerator.num_processes
        self.trained_on = feed.count - settings.validation_examples
        self._check_sizes()
        blocks = list(model.model["transformer"]["blocks"])
        shard = settings.parallel == "shard"
        self.objective = optimizer.parallelize(
            Objective(model, loss), blocks, self.accelerator, shard=shard
        )
        self.keeps_gradients = self.world > 1 and not shard
        self.optimizer, self.schedule = optimizer_for(model, settings)
        self.order = Order(self.trained_on, settings.batch_size, settings.seed)
        self.peak_flops = throughput.peak_flops(self.device)
        self.step, self.skipped = 0, 0
        self.bad: list[list[int]] = []  # examples of the steps in a row that were not finite
        self.pending: dict[str, Any] | None = None  # a step's record before its validation

    def _check_sizes(self) -> None:
        settings, unit = self.settings, self.settings.micro_batch_size * self.world
        allowed = f"a multiple of {unit}, micro_batch_size times {self.world} processes"
        check("batch_size", settings.batch_size, self.micro_batches % self.world == 0, allowed)
        held, allowed = settings.validation_examples, f"fewer than the {self.feed.count} examples"
        check("validation_examples", held, self.trained_on >= 1, allowed)

    def restore(self, snapshot: Snapshot) -> None:
        """Takes up a saved state."""
        facts = snapshot.facts
        self.step = facts["step"]
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
            if self.checkpoints and self._is_due(self.checkpoints):
                self._save(self.checkpoints)

    def _advance(self) -> dict[str, Any]:
        """One optimizer step; returns its record."""
        started = time.perf_counter()
        examples = self.order.batch(self.step)
        parts = self._backward_batch(examples)
        total, tokens = figures.add(parts)
        record = figures.record(total)
        update = self._update(record["loss"])
        if "loss" in update:
            self.bad = []
        else:
            self._skip(examples, parts)
            record = {name: record[name] for name in total if total[name].ndim}
        return {
            "step": self.step + 1,
            **record,
            **update,
            **self._speed(tokens, time.perf_counter() - started),
            "skipped_steps": self.skipped,
        }

    def _backward_batch(self, examples: list[int]) -> list[Part]:
        """Gradients of a batch of examples; the parts of all its micro-batches, in their order."""
        size = self.settings.micro_batch_size
        parts: list[Part] = []
        for first in range(0, self.micro_batches, self.world):
            index = first + self.rank
            draw = Draw(
                purpose=draws.NOISE,
                seed=self.settings.seed,
                step=self.step,
                examples=examples,
                places=range(index * size, (index + 1) * size),
                progress=self.step / self.settings.steps,
            )
            is_last = first + self.world == self.micro_batches
            parts += figures.gather(*self._backward(draw, is_last), self.accelerator)
            self._stop_if_told()
        return parts

    def _backward(self, draw: Draw, is_last: bool) -> tuple[Figures, int]:
        """Gradients of one micro-batch; its weighed figures, and its tokens."""
        draws.seed_dropout(draw.key(draws.DROPOUT), self.device)
        # Replicas exchange their gradients once a step, in the last backward pass.
        is_local = self.keeps_gradients and not is_last
        with self.accelerator.no_sync(self.objective) if is_local else nullcontext():
            weighed, tokens = self._forward(draw)
            # Between processes gradients are averaged, within one they add up.
            self.accelerator.backward(weighed["loss"] * self.world)
        return weighed, tokens

    def _forward(self, draw: Draw) -> tuple[Figures, int]:
        """A micro-batch's figures as they add up in its batch, and its tokens."""
        batch = self.feed.collate(draw)
        share = draw.share if batch.share is None else batch.share
        with self.accelerator.autocast():
            means = self.objective(batch.tensors, draw)
        return figures.weigh(means, share), batch.tokens

    def _update(self, loss: float) -> dict[str, float]:
        """The optimizer step unless the loss is not finite; only a whole step names its loss."""
        if not math.isfinite(loss):
            rate = self.optimizer.param_groups[0]["lr"]
            self.optimizer.zero_grad()
            self.schedule.step()
            return {"learning_rate": rate}
        update = clipped_step(
            self.accelerator, self.model, self.optimizer, self.schedule, self.settings
        )
        if not math.isfinite(update["gradient_norm"]):
            return {"learning_rate": update["learning_rate"]}
        return {"loss": loss, **update}

    def _skip(self, examples: list[int], parts: list[Part]) -> None:
        """Counts a step that was not finite, and keeps the numbers of its examples.

        Those are the examples of the micro-batches to blame; all of them for a gradient.
        """
        size = self.settings.micro_batch_size
        is_finite = [math.isfinite(part.figures["loss"].item()) for part in parts]
        blamed = [n for n, number in enumerate(examples) if not is_finite[n // size]]
        self.skipped += 1
        self.bad.append([examples[n] for n in blamed] or examples)

    def _speed(self, tokens: int, seconds: float) -> dict[str, float]:
        speed: dict[str, float] = {"tokens": tokens, "tokens_per_second": tokens / seconds}
        if self.peak_flops is not None:
            each = throughput.flops_per_token(self.model, tokens / self.settings.batch_size)
            speed["mfu"] = tokens * each / seconds / (self.peak_flops * self.world)
        return {**speed, "peak_memory_bytes": throughput.peak_memory(self.device)}

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
        micro_batches = draws.validation(held, self.settings)
        self.model.eval()
        parts: list[Part] = []
        for first in range(0, len(micro_batches), self.world):
            # Processes that are left over compute a micro-batch anew; zip drops it below.
            draw = micro_batches[(first + self.rank) % len(micro_batches)]
            parts += figures.gather(*self._forward(draw), self.accelerator)
            self._stop_if_told()
        processes.reshard(self.objective)
        self.model.train()
        pairs = zip(parts, micro_batches, strict=False)
        total = sum(part.figures["loss"].item() * len(draw.examples) for part, draw in pairs)
        return total / len(held)

    def _is_due(self, checkpoints: StateStore) -> bool:
        """Whether the first process wants to save: clocks differ."""
        is_due = self.rank == 0 and checkpoints.is_due(self.step)
        return processes.in_any_process(self.accelerator, is_due)

    def _stop_if_told(self) -> None:
        """Stops if any of the processes was told to: they must stop at the same micro-batch."""
        if processes.in_any_process(self.accelerator, self.interruption.is_requested):
            self._stop()

    def _stop(self) -> NoReturn:
        """Saves the last whole step and raises; the passes since then are lost."""
        self.optimizer.zero_grad()
        if self.checkpoints is None:
            raise Preempted(
                f"stopped after step {self.step}; without checkpoint_uri nothing is kept"
            )
        if processes.in_any_process(self.accelerator, self.step > self.checkpoints.settle()):
            self._save(self.checkpoints)
        if self.step > (saved := self.checkpoints.settle()):
            raise Preempted(
                f"stopped after step {self.step}, which could not be saved; "
                f"the same command goes on from step {saved}"
            )
        raise Preempted(f"stopped, step {self.step} is saved; the same command goes on from there")

    def _save(self, checkpoints: StateStore) -> None:
        facts = {
            "step": self.step,
            "skipped": self.skipped,
            "bad": self.bad,
            "pending": self.pending,
        }
        checkpoints.save(self.step, optimizer.state(self.model, self.optimizer), facts)

    def _complaint(self) -> str:
        first = self.step - len(self.bad) + 1
        return (
            f"steps {first} to {self.step}: the loss or its gradient is not finite; "
            f"examples by step: {self.bad}"
        )
