"""GRPO's inner updates: a batch of rollouts becomes optimizer steps of the adapter.

The views of each inner update are drawn once and shared by the policy, the behaviour policy and the
reference. Of several processes all hold all rollouts, and they take turns at the micro-batches.
`model.estimators` has the estimators, `model.preference` the objective, `plan.py` the turns.
"""

import functools
import itertools
import math
from collections.abc import Sequence
from contextlib import nullcontext

import torch
from peft import PeftModel

from components.grpo.config import GrpoConfig
from components.grpo.plan import InnerUpdate, Plan, Turn, minibatches, turns
from components.grpo.rollouts import Rollouts
from components.grpo.views import draw_views
from model import estimators, preference
from model.attention import training_kernels
from model.estimators import View
from model.llada import LLaDA
from model.options import RatioLevel, check
from model.training import optimizer, processes
from model.training.loop import TOLERATED

FEW = 4  # problems that a complaint names of each step


class Updater:
    """The policy and its optimizer, in each of the processes that share the work."""

    def __init__(self, model: LLaDA, adapter: PeftModel, config: GrpoConfig) -> None:
        """Raises ValueError where the prompts of a step cannot be shared out evenly."""
        self.model, self.adapter, self.config = model, adapter, config
        self.random = torch.Generator(model.device)
        self.accelerator = optimizer.accelerate(config)
        self.rank, self.world = self.accelerator.process_index, self.accelerator.num_processes
        unit = config.group * self.world
        allowed = f"a multiple of {unit}, group times {self.world} processes"
        check("batch_size", config.batch_size, config.batch_size % unit == 0, allowed)
        blocks, shard = list(model.model["transformer"]["blocks"]), config.parallel == "shard"
        self.passes = optimizer.parallelize(
            processes.Passes(model), blocks, self.accelerator, shard=shard
        )
        self.keeps_gradients = self.world > 1 and not shard
        self.minibatch = config.minibatch or config.batch_size
        # Optimizer steps of a step whose rollouts are all of use; the schedule counts these.
        self.updates = config.inner_updates * math.ceil(config.batch_size / self.minibatch)
        total = config.steps * self.updates
        self.optimizer, self.schedule = optimizer.optimizer_for(model, config, steps=total)
        self.level: RatioLevel = "sequence" if config.estimator == "elbo" else "token"
        self.skipped = 0
        self.bad: list[list[str]] = []  # problems of the optimizer steps in a row not finite

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
        own = [
            self._backward(rollouts, inner, turn, count, is_first=is_first)
            for turn in turns(minibatch, self.rank, self.world)
        ]
        parts = processes.in_turn(own, len(minibatch))
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
        order_B = torch.randperm(count, generator=self.random, device=self.random.device)
        plan = minibatches(order_B, self.minibatch, size)
        views = draw_views(rollouts, self.config, self.random)
        old_BL = reference_BL = self._scored(rollouts, views, plan[1:] if is_first else plan)
        if self.config.kl:
            with self.adapter.disable_adapter():
                reference_BL = self._scored(rollouts, views, plan)
        return InnerUpdate(plan, views, old_BL, reference_BL)

    @torch.no_grad()
    def _scored(self, rollouts: Rollouts, views: list[View], plan: Plan) -> torch.Tensor:
        """Log-probabilities [B, L] of this process's rollouts, bit for bit those of an update."""
        scored_BL = torch.zeros(rollouts.tokens_BL.shape, device=self.model.device)
        with training_kernels(self.model.device):
            every = (turns(minibatch, self.rank, self.world) for minibatch in plan)
            for turn in itertools.chain.from_iterable(every):
                scored_BL[turn.rows_R] = self._scores(rollouts, views, turn)
        return scored_BL

    def _backward(
        self,
        rollouts: Rollouts,
        inner: InnerUpdate,
        turn: Turn,
        count: int,
        *,
        is_first: bool = False,
    ) -> dict[str, float]:
        """Gradients of one micro-batch; its part of the figures of a step that scores `count`.

        In the first step the old scores are its own.
        """
        config, rows_R = self.config, turn.rows_R
        part, views = rollouts.rows(rows_R), [view.rows(rows_R) for view in inner.views]
        by_answer = self.level == "sequence"
        # Replicas exchange their gradients once a step, in the last backward pass.
        is_local = self.keeps_gradients and not turn.is_last
        with self.accelerator.no_sync(self.passes) if is_local else nullcontext():
            new_BL = self._scores(rollouts, inner.views, turn)
            old_BL = new_BL.detach() if is_first else inner.old_BL[rows_R]
            reference_BL = inner.reference_BL[rows_R] if config.kl else old_BL
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
            # Between processes gradients are averaged, within one they add up.
            self.accelerator.backward(loss * (self.world if turn.is_own else 0))
        return {"loss": float(loss.detach()), **figures}

    def _scores(self, rollouts: Rollouts, views: list[View], turn: Turn) -> torch.Tensor:
        """Log-probabilities [R, L] of a turn's rollouts.

        Views that score nothing in any process's micro-batch cost no pass; one is passed anyway,
        because gradients are exchanged in a pass.
        """
        beside_R = torch.cat(list(turn.beside))
        views = [view for view in views if view.scored_BL[beside_R].any()] or views[:1]
        part = [view.rows(turn.rows_R) for view in views]
        return self._log_probabilities(rollouts.rows(turn.rows_R), part)

    def _log_probabilities(self, rollouts: Rollouts, views: list[View]) -> torch.Tensor:
        """[B, L] at the rollouts' temperature."""
        run = functools.partial(
            estimators.log_probabilities,
            self.model,
            rollouts.tokens_BL,
            rollouts.attention_BL,
            views,
            temperature=self.config.temperature,
        )
        with self.accelerator.autocast():
            return self.passes(run)


def _few(prompts: list[str]) -> list[str]:
    """The beginnings of the first prompts."""
    more = [f"and {len(prompts) - FEW} more"] if len(prompts) > FEW else []
    return [f"{prompt:.40}" for prompt in prompts[:FEW]] + more
