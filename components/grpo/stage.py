"""Reinforces answers that verify: load, feed, roll out and train, save, record.

Its loop is its own because it generates between its updates; the objective is `model.preference`'s.
"""

import dataclasses
import time
from typing import Any

import torch
from peft import PeftModel
from transformers import PreTrainedTokenizerBase

from components import artifact
from components import dataset as data
from components.artifact import Input, Output
from components.grpo.config import GrpoConfig
from components.metrics import MetricsLog
from components.training import open_base, save_trained
from model import diffusion, preference, rewards, sampler, tokenizer, train
from model.llada import LLaDA


def run(
    config: GrpoConfig, *, base: Input, dataset: Input, adapter: Output, metrics: Output
) -> None:
    """Trains an adapter on `base` with rewards from the dataset's verified answers."""
    model, wrapped, words = open_base(base, config)
    assert wrapped is not None, "GrpoConfig refuses a run without an adapter"
    problems = data.read(dataset, "problems")
    learner = Learner(model, wrapped, words, config)
    picks = data.shuffled(len(problems), config.batch_size // config.group, seed=config.seed)
    with MetricsLog(
        metrics, stage="grpo", total=config.steps, config=dataclasses.asdict(config)
    ) as log:
        for step in range(1, config.steps + 1):
            log({"step": step, **learner.step([problems[index] for index in next(picks)])})
    save_trained(model, wrapped, words, adapter)
    tail = log.records[-20:]
    artifact.record(
        {"adapter": adapter, "metrics": metrics},
        stage="grpo",
        config=config,
        inputs={"base": base, "dataset": dataset},
        summary={**log.summary(), "reward": sum(row["reward"] for row in tail) / len(tail)},
    )


@dataclasses.dataclass(frozen=True)
class Rollouts:
    """Answers to a batch of prompts, with what the objective needs of them.

    `answer_BL` is the whole window that was denoised, `scored_BL` each answer up to its first EOS:
    what follows is hidden like the rest, since generation did not see it, but earns nothing.
    """

    tokens_BL: torch.Tensor
    attention_BL: torch.Tensor
    answer_BL: torch.Tensor
    scored_BL: torch.Tensor
    advantage_B: torch.Tensor
    flawless_B: torch.Tensor
    record: dict[str, Any]


class Learner:
    """The policy, its optimiser, and one step of rollouts followed by inner updates."""

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
        rollouts = self.roll_out(problems)
        useful = rollouts.advantage_B != 0
        if self.config.imitation:
            useful |= rollouts.flawless_B
        figures = {"loss": 0.0, "kl": 0.0, "gradient_norm": 0.0, "learning_rate": 0.0}
        if useful.any():
            figures |= self._update(_rows(rollouts, useful))
        seconds = time.perf_counter() - started
        tokens = int(rollouts.attention_BL.sum())
        speed = tokens / seconds
        return {**figures, **rollouts.record, "tokens": tokens, "tokens_per_second": speed}

    @torch.no_grad()
    def roll_out(self, problems: list[dict]) -> Rollouts:
        """`group` answers to each problem from the policy in eval mode, and their advantages."""
        config, words = self.config, self.words
        asked = [problem for problem in problems for _ in range(config.group)]
        prompts = [
            tokenizer.chat(words, [{"role": "user", "content": problem["prompt"]}])
            for problem in asked
        ]
        batch = words.pad({"input_ids": prompts}, padding_side="left", return_tensors="pt")
        prompt_BP = batch["input_ids"].to(self.model.device)
        seen_BP = batch["attention_mask"].to(self.model.device).bool()
        stops = [words.eos_token_id, words.convert_tokens_to_ids(tokenizer.EOT)]
        self.model.eval()
        tokens_BL = sampler.generate(
            self.model,
            prompt_BP,
            gen_length=config.gen_length,
            block_length=config.block_length,
            threshold=config.threshold,
            temperature=config.temperature,
            cache="dual",
            attention_mask_BP=seen_BP,
            stop_tokens=stops,
            generator=self.random,
        ).tokens_BL
        answers_BG = tokens_BL[:, prompt_BP.shape[1] :]
        texts = words.batch_decode(answers_BG)
        correct = [
            rewards.VERIFIERS[problem["verifier"]](text, problem["answer"])
            for problem, text in zip(asked, texts, strict=True)
        ]
        formed = [rewards.well_formed(text) for text in texts]
        sums = [rewards.equations(text) for text in texts]
        parts = torch.tensor([correct, formed, sums])
        weights = torch.tensor([1.0, config.format_weight, config.equation_weight])
        reward_B = weights @ parts
        advantage_B = preference.advantages(reward_B.view(-1, config.group)).flatten()
        answer_BL = torch.zeros_like(tokens_BL, dtype=torch.bool)
        answer_BL[:, prompt_BP.shape[1] :] = True
        scored_BL = answer_BL.clone()
        scored_BL[:, prompt_BP.shape[1] :] = _until_end(answers_BG, words.eos_token_id)
        record = {
            "reward": float(reward_B.mean()),
            "accuracy": sum(correct) / len(correct),
            "format": sum(formed) / len(formed),
            "equations": sum(sums) / len(sums),
            "useful": float((advantage_B != 0).float().mean()),
        }
        attention_BL = torch.cat((seen_BP, torch.ones_like(answers_BG, dtype=torch.bool)), 1)
        advantage_B = advantage_B.to(self.model.device)
        flawless_B = (parts == 1).all(0).to(self.model.device)
        return Rollouts(
            tokens_BL, attention_BL, answer_BL, scored_BL, advantage_B, flawless_B, record
        )

    def _update(self, rollouts: Rollouts) -> dict[str, float]:
        """Inner updates; each has masks of its own, shared by new, old and reference."""
        config, noises = self.config, []
        for _ in range(config.inner_updates):
            masks = self._masks(rollouts)
            old_BL = self._log_probabilities(rollouts, masks)
            reference_BL = old_BL
            if config.kl:
                with self.wrapped.disable_adapter():
                    reference_BL = self._log_probabilities(rollouts, masks)
            noises.append((masks, old_BL, reference_BL))
        total: dict[str, float] = {"loss": 0.0, "kl": 0.0}
        self.model.train()
        count = len(rollouts.tokens_BL)
        for masks, old_BL, reference_BL in noises:
            order = torch.randperm(count, generator=self.random, device=self.random.device).cpu()
            for minibatch in order.tensor_split(min(self.minibatches, count)):
                for rows in minibatch.split(config.micro_batch_size):
                    with self.accelerator.autocast():
                        loss, divergence = self._loss(
                            _rows(rollouts, rows),
                            [masked_BL[rows] for masked_BL in masks],
                            old_BL[rows],
                            reference_BL[rows],
                        )
                    self.accelerator.backward(loss * len(rows) / len(minibatch))
                    share = len(rows) / count / config.inner_updates
                    total["loss"] += float(loss.detach()) * share
                    total["kl"] += float(divergence.detach()) * share
                total |= train.update(
                    self.accelerator, self.model, self.optimiser, self.schedule, config
                )
        self.model.eval()
        return total

    def _loss(
        self,
        rollouts: Rollouts,
        masks: list[torch.Tensor],
        old_BL: torch.Tensor,
        reference_BL: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        config = self.config
        loss, divergence = preference.grpo_loss(
            self._score(rollouts, masks),
            old_BL,
            reference_BL,
            rollouts.advantage_B,
            rollouts.scored_BL,
            clip_low=config.clip_low,
            clip_high=config.clip_high,
            kl=config.kl,
        )
        if config.imitation and rollouts.flawless_B.any():
            loss = loss + config.imitation * self._imitation_loss(rollouts)
        return loss, divergence

    def _imitation_loss(self, rollouts: Rollouts) -> torch.Tensor:
        """The SFT loss on flawless rollouts (VAPO, arXiv:2504.05118, positive-example loss)."""
        right = _rows(rollouts, rollouts.flawless_B)
        return diffusion.sft_loss(
            self.model,
            right.tokens_BL,
            right.answer_BL,
            attention_mask_BL=right.attention_BL,
            generator=self.random,
        )

    def _masks(self, rollouts: Rollouts) -> list[torch.Tensor]:
        if self.config.estimator == "complementary":
            return preference.complementary_masks(rollouts.answer_BL, generator=self.random)
        return preference.one_pass_masks(
            rollouts.answer_BL,
            rollouts.attention_BL & ~rollouts.answer_BL,
            prompt_mask=self.config.prompt_mask,
            generator=self.random,
        )

    @torch.no_grad()
    def _log_probabilities(self, rollouts: Rollouts, masks: list[torch.Tensor]) -> torch.Tensor:
        rows_in_turn = torch.arange(len(rollouts.tokens_BL)).split(self.config.micro_batch_size)
        with self.accelerator.autocast():
            parts = [
                self._score(_rows(rollouts, rows), [masked_BL[rows] for masked_BL in masks])
                for rows in rows_in_turn
            ]
        return torch.cat(parts)

    def _score(self, rollouts: Rollouts, masks: list[torch.Tensor]) -> torch.Tensor:
        return preference.token_log_probabilities(
            self.model, rollouts.tokens_BL, rollouts.answer_BL, rollouts.attention_BL, masks
        )


def _rows(rollouts: Rollouts, rows: torch.Tensor) -> Rollouts:
    return dataclasses.replace(
        rollouts,
        tokens_BL=rollouts.tokens_BL[rows],
        attention_BL=rollouts.attention_BL[rows],
        answer_BL=rollouts.answer_BL[rows],
        scored_BL=rollouts.scored_BL[rows],
        advantage_B=rollouts.advantage_B[rows],
        flawless_B=rollouts.flawless_B[rows],
    )


def _until_end(answers_BG: torch.Tensor, eos: int) -> torch.Tensor:
    """True up to and including the first EOS of each answer."""
    return (answers_BG == eos).cumsum(1).cumsum(1) <= 1
