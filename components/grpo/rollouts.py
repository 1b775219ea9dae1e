"""Groups of answers to a batch of prompts: generated, rewarded and compared.

The policy is in eval mode here, without dropout. What is learnt from the answers is `learner.py`'s.
Shapes: B answers, P prompt, G generated tokens, L = P+G.
"""

import dataclasses
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from components.grpo.config import GrpoConfig
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
) -> tuple[Rollouts, dict[str, float]]:
    """`config.group` answers to each problem, and the figures of the batch."""
    asked = [problem for problem in problems for _ in range(config.group)]
    prompts = [
        tokenizer.chat(words, [{"role": "user", "content": problem["prompt"]}]) for problem in asked
    ]
    batch = words.pad({"input_ids": prompts}, padding_side="left", return_tensors="pt")
    prompt_BP = batch["input_ids"].to(model.device)
    seen_BP = batch["attention_mask"].to(model.device).bool()
    tokens_BL, order_BL = _generate(model, words, prompt_BP, seen_BP, config, generator)
    is_answer_L = torch.arange(tokens_BL.shape[1], device=model.device) >= prompt_BP.shape[1]
    answer_BL = is_answer_L.expand(tokens_BL.shape).clone()
    ended_BL = ((tokens_BL == words.eos_token_id) & answer_BL).cumsum(1).cumsum(1) > 1
    texts = words.batch_decode(tokens_BL[:, prompt_BP.shape[1] :])
    reward_B, figures = _rewards(texts, asked, config)
    advantage_NG = preference.advantages(
        reward_B.view(-1, config.group),
        normalise=config.normalise,
        leave_one_out=config.leave_one_out,
    )
    figures["groups_without_spread"] = int((advantage_NG == 0).all(1).sum())
    rollouts = Rollouts(
        tokens_BL=tokens_BL,
        attention_BL=torch.cat((seen_BP, torch.ones_like(answer_BL[:, prompt_BP.shape[1] :])), 1),
        answer_BL=answer_BL,
        scored_BL=answer_BL & ~ended_BL,
        order_BL=order_BL,
        advantage_B=advantage_NG.flatten().to(model.device),
    )
    return rollouts, figures


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


def _rewards(texts: list[str], asked: list[dict], config: GrpoConfig):
    """The weighted reward of each answer [B], and the mean of every part."""
    parts = {
        "accuracy": [
            rewards.VERIFIERS[problem["verifier"]](text, problem["answer"])
            for problem, text in zip(asked, texts, strict=True)
        ],
        "format": [rewards.well_formed(text) for text in texts],
        "equations": [rewards.equations(text) for text in texts],
    }
    weights = torch.tensor([1.0, config.format_weight, config.equation_weight])
    reward_B = weights @ torch.tensor(list(parts.values()))
    means = {name: sum(values) / len(values) for name, values in parts.items()}
    return reward_B, {"reward": float(reward_B.mean()), **means}
