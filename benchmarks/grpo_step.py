"""A GRPO step in the setting that an open request of NeMo-RL times: rollout, update, and their gap.

2 prompts with 6 answers each of 256 tokens in 128 passes, then 12 updates by the one-pass estimator
against the old policy and the reference, on a rank-128 adapter of LLaDA-8B with random weights. The
request names about 95 s a step on one H100. A CPU runs a small network, fewer updates and shorter
answers, and its baseline is the same step with a sampler without a cache.

Advantages are made up, since random weights earn no reward. The gap is the mean difference between
the log-probabilities of one rollout as the sampler computes them (inference, the weights' own
precision) and as the trainer does (autocast, training kernels), on the same masks; each ratio of
the update would be off by it if the sampler's were taken for the old policy's.
Shapes: B answers, P prompt, L = P and generated tokens.
"""

from typing import NamedTuple

import torch
from peft import PeftModel

from benchmarks.measure import Row, timed
from benchmarks.network import network
from model import estimators, lora, preference, sampler
from model.attention import training_kernels
from model.estimators import View
from model.llada import LLaDA
from model.options import Cache

PROMPT, BLOCK, PROMPTS, GROUP, RANK = 128, 32, 2, 6, 128
NEMO = 95.0  # seconds of a step on one H100, as the request has it


class Policy(NamedTuple):
    """What is trained, with its optimizer and the prompts [B, P] that it answers."""

    model: LLaDA
    adapter: PeftModel
    optimizer: torch.optim.Optimizer
    prompt_BP: torch.Tensor
    answer: int
    """Tokens of an answer, two to a pass."""
    updates: int


def rows(device: str) -> list[Row]:
    """Seconds of a step, of its rollout and its update, and the gap in nats."""
    policy, on_gpu = _policy(device), device != "cpu"
    _update(policy, _rollout(policy, "dual"))  # a warm-up, which compiles and allocates
    rolled: list[torch.Tensor] = []
    rollout = timed(lambda: rolled.append(_rollout(policy, "dual")), device)
    gap = _gap(policy, rolled[0])
    update = timed(lambda: _update(policy, rolled[0]), device)
    plain = NEMO if on_gpu else timed(lambda: _rollout(policy, "none"), device) + update
    against = "NeMo-RL's request, one H100" if on_gpu else "our step, a sampler without a cache"
    work = f"GRPO step, {PROMPTS * GROUP} answers of {policy.answer} tokens"
    work += f", {policy.updates} updates"
    figures = (("", rollout + update), (", rollout", rollout), (", update", update))
    lines = [
        Row(work=work + part, against=against, unit="s", baseline=plain, ours=own, bar=None)
        for part, own in figures
    ]
    shown = Row(
        work="log p of a rollout, trainer's minus sampler's, mean size",
        against="a change of 1% of a probability",
        unit="nats",
        baseline=0.01,
        ours=max(gap, 1e-12),
        bar=None,
    )
    return [*lines, shown]


def _policy(device: str) -> Policy:
    model = network(device)
    adapter = lora.attach(
        model, rank=RANK, alpha=2 * RANK, dropout=0.0, targets=("q_proj", "k_proj", "v_proj")
    )
    model.checkpoint_activations = device != "cpu"
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-6, fused=True)
    draw = torch.Generator().manual_seed(0)
    prompt_NP = torch.randint(2, 30000, (PROMPTS, PROMPT), generator=draw).to(device)
    answer = 256 if device != "cpu" else 64
    prompt_BP, updates = prompt_NP.repeat_interleave(GROUP, 0), 12 if device != "cpu" else 2
    return Policy(model, adapter, optimizer, prompt_BP, answer, updates)


def _rollout(policy: Policy, cache: Cache) -> torch.Tensor:
    """Prompts with their answers [B, L], two tokens a pass."""
    policy.model.eval()
    draw = torch.Generator(policy.model.device).manual_seed(0)
    generation = sampler.generate(
        policy.model,
        policy.prompt_BP,
        gen_length=policy.answer,
        block_length=BLOCK,
        steps=policy.answer // 2,
        temperature=0.9,
        cache=cache,
        generator=draw,
    )
    return generation.tokens_BL.clone()


def _update(policy: Policy, tokens_BL: torch.Tensor) -> None:
    """All updates on a rollout, each a pass of the old policy, the reference and the new one."""
    advantage_B = torch.tensor([1.0, -1.0] * (len(tokens_BL) // 2), device=tokens_BL.device)
    for number in range(policy.updates):
        views = _views(policy, tokens_BL, number)
        with torch.no_grad(), training_kernels(policy.model.device):
            old_BL = _log_p(policy, tokens_BL, views)
            with policy.adapter.disable_adapter():
                reference_BL = _log_p(policy, tokens_BL, views)
        loss, _ = preference.grpo_loss(
            _log_p(policy, tokens_BL, views),
            old_BL,
            reference_BL,
            advantage_B,
            estimators.token_weights(views),
            clip_low=0.2,
            clip_high=0.2,
            kl=0.04,
        )
        loss.backward()
        policy.optimizer.step()
        policy.optimizer.zero_grad()


def _views(policy: Policy, tokens_BL: torch.Tensor, number: int) -> list[View]:
    is_answer_BL = torch.ones_like(tokens_BL, dtype=torch.bool)
    is_answer_BL[:, :PROMPT] = False
    draw = torch.Generator(tokens_BL.device).manual_seed(number)
    return estimators.one_pass(
        is_answer_BL, is_answer_BL, ~is_answer_BL, prompt_mask=0.15, generator=draw
    )


def _log_p(
    policy: Policy, tokens_BL: torch.Tensor, views: list[View], *, trains: bool = True
) -> torch.Tensor:
    device = tokens_BL.device.type
    with torch.autocast(device, torch.bfloat16, enabled=trains and device != "cpu"):
        seen_BL = torch.ones_like(tokens_BL)
        return estimators.log_probabilities(policy.model, tokens_BL, seen_BL, views)


@torch.no_grad()
def _gap(policy: Policy, tokens_BL: torch.Tensor) -> float:
    """Nats between the trainer's and the sampler's log-probability of a token, in the mean."""
    views = _views(policy, tokens_BL, 0)
    sampled_BL = _log_p(policy, tokens_BL, views, trains=False)
    with training_kernels(policy.model.device):
        trained_BL = _log_p(policy, tokens_BL, views)
    return float((trained_BL - sampled_BL)[:, PROMPT:].abs().mean())
