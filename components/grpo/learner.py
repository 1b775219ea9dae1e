"""GRPO's loop: rollouts, then inner updates on them, step after step.

The views of each inner update are drawn once and shared by the policy, the behaviour policy and the
reference. All that is random in a step is a function of its number, so that a run that was stopped
goes on exactly. Estimators and objective are `model.estimators` and `model.preference`; rewards and
rollouts are `rollouts.py`'s.
"""

import itertools
import time
from collections.abc import Sequence
from typing import Any

import torch
from peft import PeftModel
from transformers import PreTrainedTokenizerBase

from components.grpo.config import GrpoConfig
from components.grpo.rollouts import Rollouts, roll_out
from components.judge import Judge
from model import draws, estimators, optimisation, preference
from model.attention import training_kernels
from model.draws import Order
from model.estimators import View
from model.feed import Checkpoints, Log, Snapshot
from model.interruption import Interruption, Preempted
from model.llada import LLaDA

# Minibatches, each an optimiser step, as micro-batches of row numbers.
Plan = list[Sequence[torch.Tensor]]


class Learner:
    """The policy, its optimiser, and the problems that it learns from."""

    def __init__(
        self,
        model: LLaDA,
        wrapped: PeftModel,
        words: PreTrainedTokenizerBase,
        problems: list[dict[str, Any]],
        config: GrpoConfig,
    ) -> None:
        self.model, self.wrapped, self.words, self.config = model, wrapped, words, config
        self.problems = problems
        self.order = Order(len(problems), config.batch_size // config.group, config.seed)
        self.random = torch.Generator(model.device)
        self.accelerator = optimisation.accelerate(config)
        self.minibatches = config.batch_size // (config.minibatch or config.batch_size)
        updates = config.steps * config.inner_updates * self.minibatches
        self.optimiser, self.schedule = optimisation.optimiser_for(model, config, steps=updates)
        self.updates = 0
        self.judge = Judge(config.judge, seed=config.seed) if config.judge else None

    def fit(
        self,
        log: Log,
        *,
        checkpoints: Checkpoints | None,
        snapshot: Snapshot | None,
    ) -> None:
        """Goes on to the last step, from `snapshot` where there is one.

        SIGTERM saves the last whole step and raises Preempted.
        """
        first = 0
        if snapshot is not None:
            facts = snapshot.facts
            first, self.updates = facts["step"], facts["updates"]
            if self.judge is not None:
                self.judge.calls, self.judge.failed = facts["judge_calls"], facts["judge_failed"]
            optimisation.restore(
                self.model, self.optimiser, self.schedule, snapshot.tensors, self.updates
            )
        with Interruption() as interruption:
            for number in range(first, self.config.steps):
                log({"step": number + 1, **self.step(number)})
                if checkpoints and (interruption.asked or checkpoints.is_due(number + 1)):
                    self._save(checkpoints, number + 1)
                if interruption.asked:
                    raise Preempted(f"stopped after step {number + 1}")

    def step(self, number: int) -> dict[str, Any]:
        """Rolls out, updates the adapter, and returns the figures of step `number`, from 0."""
        started = time.perf_counter()
        self.random.manual_seed(draws.key("rollouts", self.config.seed, number))
        problems = [self.problems[index] for index in self.order.batch(number)]
        rollouts, record = roll_out(
            self.model, self.words, problems, self.config, self.random, self.judge
        )
        figures = {"loss": 0.0, "kl": 0.0, "clipped": 0.0, "gradient_norm": 0.0}
        useful = rollouts.advantage_B != 0
        if useful.any():
            figures |= self.update(rollouts.rows(useful))
        tokens = int(rollouts.attention_BL.sum())
        speed = tokens / (time.perf_counter() - started)
        return {**figures, **record, "tokens": tokens, "tokens_per_second": speed}

    def _save(self, checkpoints: Checkpoints, step: int) -> None:
        state = optimisation.state(self.model, self.optimiser)
        facts = {"step": step, "updates": self.updates}
        if self.judge is not None:
            facts |= {"judge_calls": self.judge.calls, "judge_failed": self.judge.failed}
        checkpoints.save(step, state, facts)

    def update(self, rollouts: Rollouts) -> dict[str, float]:
        """Inner updates; before the first of them every ratio is exactly 1."""
        rounds = [self._round(rollouts) for _ in range(self.config.inner_updates)]
        total = dict.fromkeys(("loss", "kl", "clipped"), 0.0)
        last: dict[str, float] = {}
        count = len(rollouts.tokens_BL)
        for plan, views, old_BL, reference_BL in rounds:
            for minibatch in plan:
                size = sum(map(len, minibatch))
                for rows in minibatch:
                    figures = self._backward(
                        rollouts.rows(rows),
                        [view.rows(rows) for view in views],
                        old_BL[rows],
                        reference_BL[rows],
                        share=len(rows) / size,
                    )
                    for name in total:
                        total[name] += figures[name] * len(rows) / count / len(rounds)
                last = optimisation.update(
                    self.accelerator, self.model, self.optimiser, self.schedule, self.config
                )
                self.updates += 1
        return {**total, **last}

    def _round(self, rollouts: Rollouts) -> tuple[Plan, list[View], torch.Tensor, torch.Tensor]:
        """One inner update: its minibatches, its views, and what they score under the policy as it
        is and under the reference, by the same micro-batches as the update."""
        count, size = len(rollouts.tokens_BL), self.config.micro_batch_size
        order = torch.randperm(count, generator=self.random, device=self.random.device)
        minibatches = order.tensor_split(min(self.minibatches, count))
        plan = [minibatch.split(size) for minibatch in minibatches]
        views = self._views(rollouts)
        old_BL = reference_BL = self._scored(rollouts, views, plan)
        if self.config.kl:
            with self.wrapped.disable_adapter():
                reference_BL = self._scored(rollouts, views, plan)
        return plan, views, old_BL, reference_BL

    def _views(self, rollouts: Rollouts) -> list[View]:
        config, answer_BL, random = self.config, rollouts.answer_BL, self.random
        if config.estimator == "complementary":
            return estimators.complementary(answer_BL, generator=random)
        if config.estimator == "elbo":
            return estimators.quadrature(answer_BL, points=config.passes, generator=random)
        if config.estimator == "trajectory":
            return estimators.trajectory(
                rollouts.order_BL, answer_BL, slices=config.passes, generator=random
            )
        prompt_BL = rollouts.attention_BL & ~answer_BL
        return estimators.one_pass(
            answer_BL, prompt_BL, prompt_mask=config.prompt_mask, generator=random
        )

    @torch.no_grad()
    def _scored(self, rollouts: Rollouts, views: list[View], plan: Plan) -> torch.Tensor:
        scored_BL = torch.empty(rollouts.tokens_BL.shape, device=self.model.device)
        with training_kernels(self.model.device):
            for rows in itertools.chain.from_iterable(plan):
                scored_BL[rows] = self._log_probabilities(
                    rollouts.rows(rows), [view.rows(rows) for view in views]
                )
        return scored_BL

    def _backward(
        self,
        rollouts: Rollouts,
        views: list[View],
        old_BL: torch.Tensor,
        reference_BL: torch.Tensor,
        *,
        share: float,
    ) -> dict[str, float]:
        """Gradients of one micro-batch, which is `share` of its optimiser step."""
        config = self.config
        loss, figures = preference.grpo_loss(
            self._log_probabilities(rollouts, views),
            old_BL,
            reference_BL,
            rollouts.advantage_B,
            rollouts.scored_BL,
            clip_low=config.clip_low,
            clip_high=config.clip_high,
            kl=config.kl,
            level="sequence" if config.estimator == "elbo" else "token",
        )
        self.accelerator.backward(loss * share)
        return {"loss": float(loss.detach()), **figures}

    def _log_probabilities(self, rollouts: Rollouts, views: list[View]) -> torch.Tensor:
        with self.accelerator.autocast():
            return estimators.log_probabilities(
                self.model, rollouts.tokens_BL, rollouts.attention_BL, views
            )
