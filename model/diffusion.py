"""Noising, losses and likelihood of masked diffusion (LLaDA, arXiv:2502.09992; SMDM 2410.18514).

Functions of tensors. The optimisation loop and the data are elsewhere.
Shapes: B batch, L length, P prompt, A answer, N masked positions.
"""

from typing import Literal

import torch
import torch.nn.functional as F

from model.llada import LLaDA

EPS = 1e-3


def sample_mask_ratio(
    batch: int, *, generator: torch.Generator | None = None, device: torch.device | str = "cpu"
) -> torch.Tensor:
    """p_B = (1-eps) t + eps with t ~ U(0,1), one per sequence (LLaDA, algorithm 1).

    The batch is stratified, t_i = (u + i/B) mod 1 (Kingma et al., arXiv:2107.00630, appendix I.1):
    each t keeps its uniform marginal and the batch's loss varies less.
    """
    offset = torch.rand((), generator=generator, device=device)
    t_B = (offset + torch.arange(batch, device=device) / batch) % 1
    return (1 - EPS) * t_B + EPS


def noise(
    tokens_BL: torch.Tensor,
    ratio_B: torch.Tensor,
    maskable_BL: torch.Tensor,
    mask_token_id: int,
    *,
    generator: torch.Generator | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Replaces each maskable token by the mask with its sequence's ratio: (noisy_BL, masked_BL)."""
    draw_BL = torch.rand(tokens_BL.shape, generator=generator, device=tokens_BL.device)
    masked_BL = (draw_BL < ratio_B[:, None]) & maskable_BL
    return tokens_BL.masked_fill(masked_BL, mask_token_id), masked_BL


def masked_cross_entropy(
    model: LLaDA,
    noisy_BL: torch.Tensor,
    tokens_BL: torch.Tensor,
    masked_BL: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """-log p(token | noisy) as [B, L], zero where not masked; the head sees masked positions."""
    hidden_BLD = model.hidden(noisy_BL, attention_mask)
    logits_NV = model.head(hidden_BLD[masked_BL]).float()
    loss_N = F.cross_entropy(logits_NV, tokens_BL[masked_BL], reduction="none")
    return loss_N.new_zeros(masked_BL.shape).masked_scatter(masked_BL, loss_N)


def pretraining_loss(
    model: LLaDA,
    tokens_BL: torch.Tensor,
    real_BL: torch.Tensor,
    *,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """Sum over masked tokens of CE / p, over all real tokens (LLaDA, equation 3)."""
    ratio_B = sample_mask_ratio(len(tokens_BL), generator=generator, device=tokens_BL.device)
    noisy_BL, masked_BL = noise(
        tokens_BL, ratio_B, real_BL, model.config.mask_token_id, generator=generator
    )
    loss_BL = masked_cross_entropy(model, noisy_BL, tokens_BL, masked_BL, real_BL)
    return (loss_BL / ratio_B[:, None]).sum() / real_BL.sum()


def sft_loss(
    model: LLaDA,
    tokens_BL: torch.Tensor,
    answer_BL: torch.Tensor,
    *,
    attention_mask_BL: torch.Tensor | None = None,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """Sum over masked answer tokens of CE / p, by each answer's own length (LLaDA, equation 5).

    `answer_BL` is True on the answer and on the EOS padding after it: the model learns to end.
    """
    ratio_B = sample_mask_ratio(len(tokens_BL), generator=generator, device=tokens_BL.device)
    noisy_BL, masked_BL = noise(
        tokens_BL, ratio_B, answer_BL, model.config.mask_token_id, generator=generator
    )
    loss_BL = masked_cross_entropy(model, noisy_BL, tokens_BL, masked_BL, attention_mask_BL)
    return ((loss_BL / ratio_B[:, None]).sum(1) / answer_BL.sum(1)).mean()


@torch.inference_mode()
def log_likelihood(
    model: LLaDA,
    prompt_P: torch.Tensor,
    answer_A: torch.Tensor,
    *,
    samples: int = 128,
    batch_size: int = 16,
    cfg_scale: float = 0.0,
    draw: Literal["exact", "reference"] = "exact",
    generator: torch.Generator | None = None,
) -> float:
    """Monte-Carlo lower bound of log p(answer | prompt), in nats (LLaDA, equation 6).

    Each sample masks k of the A answer tokens and weighs the cross entropy by A/k. `exact` draws
    the counts stratified and uniform; `reference` draws them as LLaDA's evaluation script does.
    Raises ValueError on an empty answer or `samples` not a multiple of the batch.
    """
    if answer_A.numel() == 0:
        raise ValueError("the answer is empty, allowed: one token or more")
    batch_size = min(batch_size, samples)
    if samples < 1 or samples % batch_size:
        raise ValueError(f"samples={samples}, allowed: a multiple of batch_size={batch_size}")
    length, device = len(answer_A), answer_A.device
    tokens_BL = torch.cat((prompt_P, answer_A)).repeat(batch_size, 1)
    total = 0.0
    for _ in range(samples // batch_size):
        count_B = mask_counts(length, batch_size, draw=draw, generator=generator).to(device)
        order_BA = torch.rand(batch_size, length, generator=generator, device=device).argsort(1)
        masked_BL = torch.zeros_like(tokens_BL, dtype=torch.bool)
        masked_BL[:, len(prompt_P) :] = order_BA.argsort(1) < count_B[:, None]
        loss_BL = _guided_loss(model, tokens_BL, masked_BL, len(prompt_P), cfg_scale)
        total += (loss_BL.sum(1) * length / count_B).mean().item()
    return -total / (samples // batch_size)


def mask_counts(
    length: int,
    batch: int,
    *,
    draw: Literal["exact", "reference"] = "exact",
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """How many of `length` tokens each of `batch` samples masks: int64 [B], in 1..length.

    `exact`: floor(((u + i/b) mod 1) * length) + 1 with one u ~ U(0,1), so that every count has the
    same marginal. `reference`: round(k + i*length/b) wrapped into 1..length, k ~ U{1..length}.
    """
    steps_B = torch.arange(batch, dtype=torch.float64)
    if draw == "exact":
        offset = torch.rand((), dtype=torch.float64, generator=generator)
        return (((offset + steps_B / batch) % 1) * length).long() + 1
    first = torch.randint(1, length + 1, (), generator=generator).double()
    counts = torch.linspace(
        float(first), float(first + (batch - 1) * (length / batch)), steps=batch
    )
    return (counts.round().long() - 1) % length + 1


def _guided_loss(model, tokens_BL, masked_BL, prompt_length: int, cfg_scale: float) -> torch.Tensor:
    """Cross entropy [B, L] at masked positions under classifier-free guidance."""
    mask_id = model.config.mask_token_id
    noisy_BL = tokens_BL.masked_fill(masked_BL, mask_id)
    if not cfg_scale:
        return masked_cross_entropy(model, noisy_BL, tokens_BL, masked_BL)
    blind_BL = noisy_BL.clone()
    blind_BL[:, :prompt_length] = mask_id
    hidden = model.hidden(torch.cat((noisy_BL, blind_BL)))[masked_BL.repeat(2, 1)]
    conditional, blind = model.head(hidden).float().chunk(2)
    logits = blind + (cfg_scale + 1) * (conditional - blind)
    loss_N = F.cross_entropy(logits, tokens_BL[masked_BL], reduction="none")
    return loss_N.new_zeros(masked_BL.shape).masked_scatter(masked_BL, loss_N)
