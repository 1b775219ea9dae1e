"""Preference optimisation and reinforcement learning for masked diffusion models.

DPO with variance-reduced ELBO margins (VRPO, LLaDA 1.5, arXiv:2505.19223) and GRPO with the
estimators of diffu-GRPO (d1, arXiv:2504.12216) and coupled-GRPO (arXiv:2506.20639). Functions of
tensors; the data, the rollouts and the loops are the stages'.
Shapes: B sequences, L length, N prompts, G answers per prompt.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
import torch.nn.functional as F

from model import diffusion
from model.llada import LLaDA


def elbo(
    model: LLaDA,
    tokens_BL: torch.Tensor,
    answer_BL: torch.Tensor,
    attention_BL: torch.Tensor,
    ratio_B: torch.Tensor,
    masked_BL: torch.Tensor,
) -> torch.Tensor:
    """One draw of each answer's ELBO [B]: minus the sum over masked tokens of CE / t."""
    noisy_BL = tokens_BL.masked_fill(masked_BL & answer_BL, model.config.mask_token_id)
    loss_BL = diffusion.masked_cross_entropy(
        model, noisy_BL, tokens_BL, masked_BL & answer_BL, attention_BL
    )
    return -(loss_BL / ratio_B[:, None]).sum(1)


def draw_noise(
    answer_BL: torch.Tensor, draws: int, *, generator: torch.Generator
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """`draws` pairs (ratio_B, masked_BL), the timesteps stratified over the draws of a sequence."""
    batch, noises = len(answer_BL), []
    device = answer_BL.device
    offset_B = torch.rand(batch, generator=generator, device=device)
    for number in range(draws):
        t_B = (offset_B + number / draws) % 1
        ratio_B = (1 - diffusion.EPS) * t_B + diffusion.EPS
        draw_BL = torch.rand(answer_BL.shape, generator=generator, device=device)
        noises.append((ratio_B, (draw_BL < ratio_B[:, None]) & answer_BL))
    return noises


def dpo_loss(margin_B: torch.Tensor, *, beta: float) -> torch.Tensor:
    """-log sigmoid(beta * margin), averaged (DPO, arXiv:2305.18290, equation 7).

    `margin_B` is (policy - reference) of the chosen answer minus that of the rejected one, each an
    ELBO averaged over its draws before the sigmoid (VRPO).
    """
    return -F.logsigmoid(beta * margin_B).mean()


def dpo_coefficient(margin_B: torch.Tensor, *, beta: float) -> torch.Tensor:
    """d dpo_loss / d margin [B], in closed form: -beta sigmoid(-beta margin) / B.

    With it each draw is backpropagated alone, so that memory does not grow with the draws.
    """
    return -beta * torch.sigmoid(-beta * margin_B) / len(margin_B)


def backward_dpo(
    chosen: Callable[[int], torch.Tensor],
    rejected: Callable[[int], torch.Tensor],
    reference: Callable[[], AbstractContextManager[None]],
    draws: int,
    *,
    beta: float,
    scale: float,
    backward: Callable[[torch.Tensor], None],
) -> torch.Tensor:
    """Accumulates the exact gradient of `scale` times the DPO loss; returns the margins [B].

    `chosen(n)` and `rejected(n)` are the ELBOs [B] of draw n, the same noise at every call. The
    first pass takes the margin without gradient, the second backpropagates one draw at a time.
    """
    with torch.no_grad():
        policy = [chosen(n) - rejected(n) for n in range(draws)]
        with reference():
            base = [chosen(n) - rejected(n) for n in range(draws)]
    margin_B = torch.stack(policy).mean(0) - torch.stack(base).mean(0)
    weight_B = scale * dpo_coefficient(margin_B, beta=beta) / draws
    for number in range(draws):
        backward((weight_B * chosen(number)).sum())
        backward((-weight_B * rejected(number)).sum())
    return margin_B


def advantages(reward_NG: torch.Tensor) -> torch.Tensor:
    """(r - mean) / std within each prompt's group (GRPO, arXiv:2402.03300); 0 without spread."""
    centred = reward_NG - reward_NG.mean(1, keepdim=True)
    return centred / (reward_NG.std(1, keepdim=True) + 1e-4)


def one_pass_masks(
    answer_BL: torch.Tensor,
    prompt_BL: torch.Tensor,
    *,
    prompt_mask: float,
    generator: torch.Generator,
) -> list[torch.Tensor]:
    """One mask [B, L]: the whole answer, and each prompt token with probability `prompt_mask`.

    diffu-GRPO's estimator (d1, section 3.2): every answer token is scored in a single pass.
    """
    draw_BL = torch.rand(answer_BL.shape, generator=generator, device=answer_BL.device)
    return [answer_BL | ((draw_BL < prompt_mask) & prompt_BL)]


def complementary_masks(
    answer_BL: torch.Tensor, *, generator: torch.Generator
) -> list[torch.Tensor]:
    """Two masks [B, L] that share the answer's tokens out between them.

    Coupled-GRPO's estimator (DiffuCoder, arXiv:2506.20639, section 4): each token is scored once,
    with part of the answer in sight, at a mask ratio t ~ U(0.2, 0.8) and its complement.
    """
    device = answer_BL.device
    t_B = 0.2 + 0.6 * torch.rand(len(answer_BL), generator=generator, device=device)
    draw_BL = torch.rand(answer_BL.shape, generator=generator, device=device)
    first_BL = (draw_BL < t_B[:, None]) & answer_BL
    return [first_BL, answer_BL & ~first_BL]


def token_log_probabilities(
    model: LLaDA,
    tokens_BL: torch.Tensor,
    answer_BL: torch.Tensor,
    attention_BL: torch.Tensor,
    masks: list[torch.Tensor],
) -> torch.Tensor:
    """log p of each answer token [B, L] under the mask that hides it, zero elsewhere.

    Prompt tokens that a mask hides only vary the condition; they are not scored.
    """
    total_BL = torch.zeros(tokens_BL.shape, device=tokens_BL.device)
    for masked_BL in masks:
        noisy_BL = tokens_BL.masked_fill(masked_BL, model.config.mask_token_id)
        total_BL = total_BL - diffusion.masked_cross_entropy(
            model, noisy_BL, tokens_BL, masked_BL & answer_BL, attention_BL
        )
    return total_BL


def grpo_loss(
    new_BL: torch.Tensor,
    old_BL: torch.Tensor,
    reference_BL: torch.Tensor,
    advantage_B: torch.Tensor,
    scored_BL: torch.Tensor,
    *,
    clip_low: float,
    clip_high: float,
    kl: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The clipped objective with the k3 divergence, per answer token: (loss, mean divergence).

    -min(r A, clip(r, 1 - low, 1 + high) A) + kl * (exp(d) - d - 1), with r = exp(new - old) and
    d = reference - new (GRPO, equations 3 and 4), averaged over the scored tokens.
    """
    ratio = (new_BL - old_BL).exp()
    advantage = advantage_B[:, None]
    clipped = ratio.clamp(1 - clip_low, 1 + clip_high)
    gain = torch.minimum(ratio * advantage, clipped * advantage)
    gap = reference_BL - new_BL
    divergence = gap.exp() - gap - 1
    count = scored_BL.sum().clamp(min=1)
    mean_divergence = (divergence * scored_BL).sum() / count
    return -(gain * scored_BL).sum() / count + kl * mean_divergence, mean_divergence
