"""The policy, its optimiser, and one step: rollouts, then inner updates on them.

The views of each inner update are drawn once and shared by the policy, the behaviour policy and the
reference. Estimators and objective are `model.estimators` and `model.preference`; the data and what
is saved are the stage's.
"""

import time
from typing import Any

import torch
from peft import PeftModel
from transformers import PreTrainedTokenizerBase

from components.grpo.config import GrpoConfig
from components.grpo.rollouts import Rollouts, roll_out
from model import estimators, preference, train
from model.estimators import View
from model.llada import LLaDA


class Learner:
    """Owns the noise of rollouts and views, so that a run repeats from its seed."""

    def __init__(
        self,
        model: LLaDA,
        wrapped: PeftModel,
        words: PreTrainedTokenizerBase,
        config: GrpoConfig,
    ) -> None:
        self.model, self.wrapped, self.words, self.config = model, wrapped, words, config
        self.random = torch.Generator(model.device).manual_seed(config.seed)
        self.accelerator = train.accelerate(config)
        self.minibatches = config.batch_size // (config.minibatch or config.batch_size)
        updates = config.steps * config.inner_updates * self.minibatches
        self.optimiser, self.schedule = train.optimiser_for(model, config, steps=updates)

    def step(self, problems: list[dict]) -> dict[str, Any]:
        """Rolls out, updates the adapter, and returns the step's figures."""
        started = time.perf_counter()
        rollouts, record = roll_out(self.model, self.words, problems, self.config, self.random)
        figures = {"loss": 0.0, "kl": 0.0, "clipped": 0.0, "gradient_norm": 0.0}
        useful = rollouts.advantage_B != 0
        if useful.any():
            figures |= self.update(rollouts.rows(useful))
        seconds = time.perf_counter() - started
        speed = int(rollouts.attention_BL.sum()) / seconds
        return {**figures, **record, "tokens_per_second": speed}

    def update(self, rollouts: Rollouts) -> dict[str, float]:
        """Inner updates; the first one of a whole batch has every ratio exactly 1."""
        rounds = [self._behaviour(rollouts) for _ in range(self.config.inner_updates)]
        total = dict.fromkeys(("loss", "kl", "clipped"), 0.0)
        last: dict[str, float] = {}
        count = len(rollouts.tokens_BL)
        self.model.train()
        for views, old_BL, reference_BL in rounds:
            order = torch.randperm(count, generator=self.random, device=self.random.device)
            for minibatch in order.tensor_split(min(self.minibatches, count)):
                for rows in minibatch.split(self.config.micro_batch_size):
                    figures = self._backward(
                        rollouts.rows(rows),
                        [view.rows(rows) for view in views],
                        old_BL[rows],
                        reference_BL[rows],
                        share=len(rows) / len(minibatch),
                    )
                    for name in total:
                        total[name] += figures[name] * len(rows) / count / len(rounds)
                last = train.update(
                    self.accelerator, self.model, self.optimiser, self.schedule, self.config
                )
        self.model.eval()
        return {**total, **last}

    def _behaviour(self, rollouts: Rollouts) -> tuple[list[View], torch.Tensor, torch.Tensor]:
        """Fresh views, and their log-probabilities under the policy as it is and the reference."""
        views = self._views(rollouts)
        old_BL = reference_BL = self._scored(rollouts, views)
        if self.config.kl:
            with self.wrapped.disable_adapter():
                reference_BL = self._scored(rollouts, views)
        return views, old_BL, reference_BL

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
    def _scored(self, rollouts: Rollouts, views: list[View]) -> torch.Tensor:
        rows_in_turn = torch.arange(len(rollouts.tokens_BL)).split(self.config.micro_batch_size)
        parts = [
            self._log_probabilities(rollouts.rows(rows), [view.rows(rows) for view in views])
            for rows in rows_in_turn
        ]
        return torch.cat(parts)

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
