"""Groups of answers to a batch of prompts: generated, rewarded and compared.

The policy is in eval mode here, without dropout. What is learnt from the answers is `learner.py`'s.
Shapes: B answers, P prompt, G generated tokens, L = P+G.
"""

import dataclasses
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from components import dataset as data
from components.grpo.config import GrpoConfig
from components.judge import Group, Judge
from model import preference, rewards, sampler, tokenizer
from model.llada import LLaDA


@dataclasses.dataclass(frozen=True)
class Rollouts:
    """Answers with what the objective needs of them.

    `answer_BL` is the whole window that was denoised, `scored_BL` each answer up to its first EOS:
    what follows is hidden like the rest, since generation did not see it, but earns nothing.
    `order_BL` is the pass that committed a token, from 1.
    """

    tokens_BL: torch.Tensor
    attention_BL: torch.Tensor
    answer_BL: torch.Tensor
    scored_BL: torch.Tensor
    order_BL: torch.Tensor
    advantage_B: torch.Tensor

    def rows(self, rows: torch.Tensor) -> "Rollouts":
        """Some of the answers."""
        fields = dataclasses.fields(self)
        return Rollouts(**{field.name: getattr(self, field.name)[rows] for field in fields})


def roll_out(
    model: LLaDA,
    words: PreTrainedTokenizerBase,
    problems: list[dict[str, Any]],
    config: GrpoConfig,
    generator: torch.Generator,
    judge: Judge | None = None,
) -> tuple[Rollouts, dict[str, float]]:
    """`config.group` answers to each problem, and the figures of the batch."""
    asked = [problem for problem in problems for _ in range(config.group)]
    prompts = [tokenizer.chat(words, data.asked(problem)) for problem in asked]
    batch = words.pad({"input_ids": prompts}, padding_side="left", return_tensors="pt")
    prompt_BP = batch["input_ids"].to(model.device)
    seen_BP = batch["attention_mask"].to(model.device).bool()
    tokens_BL, order_BL = _generate(model, words, prompt_BP, seen_BP, config, generator)
    is_answer_L = torch.arange(tokens_BL.shape[1], device=model.device) >= prompt_BP.shape[1]
    answer_BL = is_answer_L.expand(tokens_BL.shape).clone()
    ended_BL = ((tokens_BL == words.eos_token_id) & answer_BL).cumsum(1).cumsum(1) > 1
    scored_BL = answer_BL & ~ended_BL
    answers = [row[scored].tolist() for row, scored in zip(tokens_BL, scored_BL, strict=True)]
    advantage_NG, figures = _compare(answers, problems, words, config, judge)
    figures["rollout_passes"] = int(order_BL.max())
    rollouts = Rollouts(
        tokens_BL=tokens_BL,
        attention_BL=torch.cat((seen_BP, torch.ones_like(answer_BL[:, prompt_BP.shape[1] :])), 1),
        answer_BL=answer_BL,
        scored_BL=scored_BL,
        order_BL=order_BL,
        advantage_B=advantage_NG.flatten().to(model.device),
    )
    return rollouts, figures


def _compare(
    answers: list[list[int]],
    problems: list[dict[str, Any]],
    words: PreTrainedTokenizerBase,
    config: GrpoConfig,
    judge: Judge | None,
) -> tuple[torch.Tensor, dict[str, float]]:
    """Advantages [N, G], zero in a group that the judge failed to judge, and the figures."""
    asked = [problem for problem in problems for _ in range(config.group)]
    reward_B, figures = _rewards(answers, asked, words, config)
    reward_NG = reward_B.view(-1, config.group)
    unjudged_N = torch.zeros(len(problems), dtype=torch.bool)
    if judge is not None:
        texts = words.batch_decode(answers, skip_special_tokens=False)
        score_NG, unjudged_N = _judged(judge, texts, problems, config.group)
        reward_NG = reward_NG + judge.config.weight * score_NG
        figures |= {"judged": float(score_NG[~unjudged_N].mean()), "judge_failed": judge.failed}
    advantage_NG = preference.advantages(
        reward_NG, normalise=config.normalise, leave_one_out=config.leave_one_out
    )
    advantage_NG[unjudged_N] = 0.0
    is_flat_N = (advantage_NG == 0).all(1) & ~unjudged_N
    return advantage_NG, {**figures, "groups_without_spread": int(is_flat_N.sum())}


def _generate(model, words, prompt_BP, seen_BP, config: GrpoConfig, generator):
    """The window [B, L] after the last pass, and the pass that committed each token."""
    model.eval()
    order_BL = None
    for generation in sampler.stream(
        model,
        prompt_BP,
        gen_length=config.gen_length,
        block_length=config.block_length,
        threshold=config.threshold,
        temperature=config.temperature,
        cache="dual",
        attention_mask_BP=seen_BP,
        stop_tokens=[words.eos_token_id, words.convert_tokens_to_ids(tokenizer.EOT)],
        generator=generator,
    ):
        known_BL = generation.tokens_BL != model.config.mask_token_id
        if order_BL is None:
            order_BL = torch.zeros_like(generation.tokens_BL)
        order_BL[known_BL & (order_BL == 0)] = generation.forward_passes
    assert order_BL is not None
    return generation.tokens_BL, order_BL


def _rewards(
    answers: list[list[int]], asked: list[dict[str, Any]], words, config: GrpoConfig
) -> tuple[torch.Tensor, dict[str, float]]:
    """The weighted reward of each answer [B], and the mean of every part by its name."""
    rows = [
        {**problem, "tokens": len(answer), "max_tokens": config.gen_length}
        for problem, answer in zip(asked, answers, strict=True)
    ]
    texts = words.batch_decode(answers)
    scored = rewards.score_all(texts, rows, config.rewards, workers=config.reward_workers)
    totals = torch.tensor([score.total for score in scored])
    parts = {
        "accuracy" if name == "verified" else name: _mean([s.parts[name] for s in scored])
        for name, _ in config.rewards
    }
    return totals, {"reward": float(totals.mean()), **parts}


def _judged(judge: Judge, texts: list[str], problems: list[dict[str, Any]], group: int):
    """The judge's score of each answer [N, G], and which groups it failed to judge [N]."""
    groups = [
        Group(
            "\n\n".join(message["content"] for message in data.asked(problem)),
            texts[number * group : (number + 1) * group],
        )
        for number, problem in enumerate(problems)
    ]
    found = judge.score_groups(groups)
    scores = torch.tensor([[0.0] * group if row is None else row for row in found])
    return scores, torch.tensor([row is None for row in found])


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
