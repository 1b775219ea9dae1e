"""GRPO's loop: rollouts, then inner updates on them, step after step.

Everything random in a step is a function of its number, so that a run that was stopped goes on
exactly, in any number of processes. `rollouts.py` has the rollouts and their rewards, `updates.py`
the inner updates.
"""

import functools
import time
from typing import Any

import torch
from peft import PeftModel
from transformers import PreTrainedTokenizerBase

from components.grpo.config import GrpoConfig
from components.grpo.rollouts import Rollouts, roll_out
from components.grpo.updates import Updater
from components.rewards.judge import Judge
from model.llada import LLaDA
from model.training import draws, optimizer, processes, throughput
from model.training.draws import Order
from model.training.loop import TOLERATED
from model.training.preemption import Interruption, Preempted
from model.training.protocols import Log, Snapshot, StateStore


class Learner(Updater):
    """The policy, its optimizer, and the problems that it learns from."""

    def __init__(
        self,
        model: LLaDA,
        adapter: PeftModel,
        tokenizer: PreTrainedTokenizerBase,
        problems: list[dict[str, Any]],
        config: GrpoConfig,
    ) -> None:
        super().__init__(model, adapter, config)
        self.tokenizer, self.problems = tokenizer, problems
        self.order = Order(len(problems), config.batch_size // config.group, config.seed)
        self.unrewarded = 0  # steps in a row without any reward
        self.judge = Judge(config.judge, seed=config.seed) if config.judge else None

    def fit(
        self,
        log: Log,
        *,
        checkpoints: StateStore | None,
        snapshot: Snapshot | None,
    ) -> None:
        """Goes on to the last step, from `snapshot` where there is one.

        SIGTERM saves the last whole step and raises Preempted. An optimizer step whose loss or
        gradient is not finite changes no weight; three in a row raise FloatingPointError naming
        their problems. Three steps in a row without a reward for any group raise ValueError.
        """
        first = 0
        if snapshot is not None:
            facts = snapshot.facts
            first, self.skipped, self.bad = facts["step"], facts["skipped"], facts["bad"]
            self.unrewarded = facts["unrewarded"]
            if self.judge is not None:
                self.judge.calls, self.judge.failed = facts["judge_calls"], facts["judge_failed"]
            done, tensors = first * self.updates, snapshot.tensors
            optimizer.restore(self.model, self.optimizer, self.schedule, tensors, done)
        with Interruption() as interruption:
            for number in range(first, self.config.steps):
                log({"step": number + 1, **self.step(number)})
                is_told = self._in_any_process(interruption.is_requested)
                if checkpoints and (is_told or self._is_due(checkpoints, number + 1)):
                    self._save(checkpoints, number + 1)
                if is_told:
                    raise Preempted(f"stopped after step {number + 1}")

    def _is_due(self, checkpoints: StateStore, step: int) -> bool:
        """Whether the first process wants to save: clocks differ."""
        return self._in_any_process(self.rank == 0 and checkpoints.is_due(step))

    def _in_any_process(self, flag: bool) -> bool:
        return processes.in_any_process(self.accelerator, flag)

    def step(self, number: int) -> dict[str, Any]:
        """Rolls out, updates the adapter, and returns the figures of step `number`, from 0."""
        started = time.perf_counter()
        self.random.manual_seed(draws.key("updates", self.config.seed, number))
        problems = [self.problems[index] for index in self.order.batch(number)]
        rollouts, record = self._roll_out(problems, number)
        self._stop_without_rewards(number, record["rewards_failed"])
        figures = {"loss": 0.0, "kl": 0.0, "clipped": 0.0, "gradient_norm": 0.0}
        useful = rollouts.advantage_B != 0
        if useful.any():
            prompts = [problem["prompt"] for problem in problems]
            figures = self.update(rollouts.rows(useful), number, prompts)
        tokens = int(rollouts.attention_BL.sum())
        speed = tokens / (time.perf_counter() - started)
        return {
            **figures,
            **record,
            "skipped_steps": self.skipped,
            "tokens": tokens,
            "tokens_per_second": speed,
            "peak_memory_bytes": throughput.peak_memory(self.model.device),
        }

    def _roll_out(
        self, problems: list[dict[str, Any]], number: int
    ) -> tuple[Rollouts, dict[str, float]]:
        """The rollouts of step `number`, each with noise of its own, whoever makes it."""
        first = number * self.config.batch_size
        noise = [
            torch.Generator(self.model.device).manual_seed(
                draws.key("rollouts", self.config.seed, first + place)
            )
            for place in range(self.config.batch_size)
        ]
        run = functools.partial(
            roll_out,
            self.model,
            self.tokenizer,
            problems,
            self.config,
            noise,
            self.judge,
            first=number * len(problems),
        )
        with torch.no_grad(), processes.whole(self.passes):
            return self.passes(run)

    def _stop_without_rewards(self, number: int, failed: float) -> None:
        self.unrewarded = self.unrewarded + 1 if failed == self.config.batch_size else 0
        if self.unrewarded > TOLERATED:
            raise ValueError(
                f"steps {number + 2 - self.unrewarded} to {number + 1}: no answer could be "
                "rewarded, for the reasons above"
            )

    def _save(self, checkpoints: StateStore, step: int) -> None:
        facts: dict[str, Any] = {"step": step, "skipped": self.skipped, "bad": self.bad}
        facts["unrewarded"] = self.unrewarded
        if self.judge is not None:
            facts |= {"judge_calls": self.judge.calls, "judge_failed": self.judge.failed}
        checkpoints.save(step, optimizer.state(self.model, self.optimizer), facts)
