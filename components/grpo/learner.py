"""GRPO's loop: rollouts, then inner updates on them, step after step.

The views of each inner update are drawn once and shared by the policy, the behaviour policy and the
reference. Everything random in a step is a function of its number, so that a run that was stopped
goes on exactly. `model.estimators` has the estimators, `model.preference` the objective, and
`rollouts.py` the rollouts and their rewards.
"""

import itertools
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from transformers import PreTrainedTokenizerBase

from components.grpo.config import GrpoConfig
from components.grpo.rollouts import Rollouts, roll_out
from components.grpo.views import draw_views
from components.rewards.judge import Judge
from model import estimators, preference
from model.attention import training_kernels
from model.estimators import View
from model.llada import LLaDA
from model.options import RatioLevel
from model.training import draws, optimizer
from model.training.draws import Order
from model.training.loop import TOLERATED
from model.training.preemption import Interruption, Preempted
from model.training.protocols import Log, Snapshot, StateStore

# Minibatches, each an optimizer step, as micro-batches of row numbers.
Plan = list[Sequence[torch.Tensor]]
FEW = 4  # problems that a complaint names of each step


@dataclass(frozen=True)
class InnerUpdate:
    """A pass over the rollouts: its minibatches, its views, and the scores before it [B, L]."""

    plan: Plan
    views: list[View]
    old_BL: torch.Tensor
    reference_BL: torch.Tensor


class Learner:
    """The policy, its optimizer, and the problems that it learns from."""

    def __init__(
        self,
        model: LLaDA,
        adapter: PeftModel,
        tokenizer: PreTrainedTokenizerBase,
        problems: list[dict[str, Any]],
        config: GrpoConfig,
    ) -> None:
        self.model, self.adapter, self.tokenizer, self.config = model, adapter, tokenizer, config
        self.problems = problems
        self.order = Order(len(problems), config.batch_size // config.group, config.seed)
        self.random = torch.Generator(model.device)
        self.accelerator = optimizer.accelerate(config)
        self.minibatch = config.minibatch or config.batch_size
        # Optimizer steps of a step whose rollouts are all of use; the schedule counts these.
        self.updates = config.inner_updates * math.ceil(config.batch_size / self.minibatch)
        total = config.steps * self.updates
        self.optimizer, self.schedule = optimizer.optimizer_for(model, config, steps=total)
        self.level: RatioLevel = "sequence" if config.estimator == "elbo" else "token"
        self.skipped, self.unrewarded = 0, 0
        self.bad: list[list[str]] = []  # problems of the optimizer steps in a row not finite
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
                if checkpoints and (interruption.is_requested or checkpoints.is_due(number + 1)):
                    self._save(checkpoints, number + 1)
                if interruption.is_requested:
                    raise Preempted(f"stopped after step {number + 1}")

    def step(self, number: int) -> dict[str, Any]:
        """Rolls out, updates the adapter, and returns the figures of step `number`, from 0."""
        started = time.perf_counter()
        self.random.manual_seed(draws.key("rollouts", self.config.seed, number))
        problems = [self.problems[index] for index in self.order.batch(number)]
        rollouts, record = roll_out(
            self.model, self.tokenizer, problems, self.config, self.random, self.judge
        )
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
        }

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

    def update(self, rollouts: Rollouts, number: int, prompts: list[str]) -> dict[str, float]:
        """Inner updates of step `number`; before the first of them every ratio is exactly 1.

        The figures are means over the scored tokens (or answers), whatever the micro-batches; steps
        that were not finite are left out. Each optimizer step has the learning rate of its place in
        the run.
        """
        passes = range(self.config.inner_updates)
        inner_updates = [self._prepare(rollouts, is_first=inner == 0) for inner in passes]
        steps = [(inner, minibatch) for inner in inner_updates for minibatch in inner.plan]
        totals, scored = dict.fromkeys(("loss", "kl", "clipped"), 0.0), 0
        last: dict[str, float] = {}
        for place, (inner, minibatch) in enumerate(steps):
            position = number * self.updates + place * self.updates // len(steps)
            optimizer.seek(self.optimizer, self.schedule, position)
            count = self._scored_count(rollouts, minibatch)
            means, last = self._optimize(
                rollouts, inner, minibatch, count, prompts, is_first=place == 0
            )
            totals = {name: total + means.get(name, 0.0) * count for name, total in totals.items()}
            scored += count if means else 0
        return {**{name: total / scored for name, total in totals.items() if scored}, **last}

    def _scored_count(self, rollouts: Rollouts, minibatch: Sequence[torch.Tensor]) -> int:
        """The tokens, or answers, over which an optimizer step is a mean."""
        rows = torch.cat(list(minibatch))
        return len(rows) if self.level == "sequence" else int(rollouts.answer_BL[rows].sum())

    def _optimize(
        self,
        rollouts: Rollouts,
        inner: InnerUpdate,
        minibatch: Sequence[torch.Tensor],
        count: int,
        prompts: list[str],
        *,
        is_first: bool,
    ) -> tuple[dict[str, float], dict[str, float]]:
        """One optimizer step on a minibatch that scores `count` tokens, or answers.

        Returns the figures of its loss, none where it was not finite, and of its update.
        """
        parts = [
            self._backward(rollouts, inner, rows, count, is_first=is_first) for rows in minibatch
        ]
        means = {name: sum(part[name] for part in parts) for name in parts[0]}
        is_finite = [math.isfinite(part["loss"]) for part in parts]
        if not all(is_finite):
            self.optimizer.zero_grad()
            bad = [rows for rows, good in zip(minibatch, is_finite, strict=True) if not good]
            self._skip(rollouts, bad, prompts)
            return {}, {"learning_rate": self.optimizer.param_groups[0]["lr"]}
        update = optimizer.clipped_step(
            self.accelerator, self.model, self.optimizer, self.schedule, self.config
        )
        if not math.isfinite(update["gradient_norm"]):
            self._skip(rollouts, minibatch, prompts)
            return {}, {"learning_rate": update["learning_rate"]}
        self.bad = []
        return means, update

    def _skip(self, rollouts: Rollouts, parts: Sequence[torch.Tensor], prompts: list[str]) -> None:
        """Counts a step that was not finite; one too many in a row ends the run."""
        places = rollouts.problem_B[torch.cat(list(parts))].unique().tolist()
        self.skipped += 1
        self.bad.append([prompts[place] for place in places])
        if len(self.bad) > TOLERATED:
            raise FloatingPointError(
                f"{len(self.bad)} optimizer steps in a row: the loss or its gradient is not "
                f"finite; problems by step: {[_few(names) for names in self.bad]}"
            )

    def _prepare(self, rollouts: Rollouts, *, is_first: bool = False) -> InnerUpdate:
        """Draws an inner update's minibatches and views, and scores them before any update.

        The policy and the reference are scored by the same micro-batches as in the update, so that
        ratios are exactly 1. The first inner update needs no old scores of its first minibatch,
        because the policy that it updates is still the old one.
        """
        count, size = len(rollouts.tokens_BL), self.config.micro_batch_size
        order = torch.randperm(count, generator=self.random, device=self.random.device)
        minibatches = order.tensor_split(math.ceil(count / self.minibatch))
        plan = [minibatch.split(size) for minibatch in minibatches]
        views = draw_views(rollouts, self.config, self.random)
        old_BL = reference_BL = self._scored(rollouts, views, plan[1:] if is_first else plan)
        if self.config.kl:
            with self.adapter.disable_adapter():
                reference_BL = self._scored(rollouts, views, plan)
        return InnerUpdate(plan, views, old_BL, reference_BL)

    @torch.no_grad()
    def _scored(self, rollouts: Rollouts, views: list[View], plan: Plan) -> torch.Tensor:
        """Log-probabilities [B, L] of a plan's rollouts, bit for bit those of an update."""
        scored_BL = torch.zeros(rollouts.tokens_BL.shape, device=self.model.device)
        with training_kernels(self.model.device):
            for rows in itertools.chain.from_iterable(plan):
                scored_BL[rows] = self._log_probabilities(
                    rollouts.rows(rows), [view.rows(rows) for view in views]
                )
        return scored_BL

    def _backward(
        self,
        rollouts: Rollouts,
        inner: InnerUpdate,
        rows: torch.Tensor,
        count: int,
        *,
        is_first: bool = False,
    ) -> dict[str, float]:
        """Gradients of one micro-batch; its part of the figures of a step that scores `count`.

        In the first step the old scores are its own.
        """
        config = self.config
        part, views = rollouts.rows(rows), [view.rows(rows) for view in inner.views]
        by_answer = self.level == "sequence"
        new_BL = self._log_probabilities(part, views)
        old_BL = new_BL.detach() if is_first else inner.old_BL[rows]
        reference_BL = inner.reference_BL[rows] if config.kl else old_BL
        loss, figures = preference.grpo_loss(
            new_BL,
            old_BL,
            reference_BL,
            part.advantage_B,
            part.answer_BL if by_answer else estimators.token_weights(views),
            count=count,
            clip_low=config.clip_low,
            clip_high=config.clip_high,
            kl=config.kl,
            level=self.level,
        )
        if loss.requires_grad:  # not where a quadrature happened to hide nothing
            self.accelerator.backward(loss)
        return {"loss": float(loss.detach()), **figures}

    def _log_probabilities(self, rollouts: Rollouts, views: list[View]) -> torch.Tensor:
        """[B, L] at the rollouts' temperature; views that score nothing here cost no pass."""
        with self.accelerator.autocast():
            return estimators.log_probabilities(
                self.model,
                rollouts.tokens_BL,
                rollouts.attention_BL,
                [view for view in views if view.scored_BL.any()],
                temperature=self.config.temperature,
            )


def _few(prompts: list[str]) -> list[str]:
    """The beginnings of the first prompts."""
    more = [f"and {len(prompts) - FEW} more"] if len(prompts) > FEW else []
    return [f"{prompt:.40}" for prompt in prompts[:FEW]] + more
