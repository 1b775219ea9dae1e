"""Preference optimisation and reinforcement learning for masked diffusion models.

DPO with variance-reduced ELBO margins (VRPO, LLaDA 1.5, arXiv:2505.19223) and GRPO's advantages
and objective. Functions of tensors; log-probabilities are estimated in `model.estimators`, the
data, the rollouts and the loops are the stages'.
Shapes: B sequences, L length, N prompts, G answers per prompt.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Literal

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


def advantages(
    reward_NG: torch.Tensor, *, normalise: bool = True, leave_one_out: bool = False
) -> torch.Tensor:
    """How much better each answer is than its prompt's group: [N, G], 0 without spread.

    r - mean, divided by the group's deviation (GRPO, arXiv:2402.03300) unless `normalise` is off
    (Dr. GRPO, arXiv:2503.20783: the division favours questions that are too easy or too hard).
    `leave_one_out` compares with the mean of the others (RLOO, arXiv:2402.14740): r - mean times
    G / (G - 1). Raises ValueError on a reward that is not finite.
    """
    if not reward_NG.isfinite().all():
        raise ValueError(f"rewards={reward_NG.tolist()}, allowed: finite numbers")
    group = reward_NG.shape[1]
    centred = reward_NG - reward_NG.mean(1, keepdim=True)
    if leave_one_out:
        centred = centred * group / (group - 1)
    return centred / (reward_NG.std(1, keepdim=True) + 1e-4) if normalise else centred


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
    level: Literal["token", "sequence"] = "token",
) -> tuple[torch.Tensor, dict[str, float]]:
    """The clipped objective with the k3 divergence: the loss, and what a log should know of it.

    -min(r A, clip(r, 1 - low, 1 + high) A) + kl * (exp(d) - d - 1), with r = exp(new - old) and
    d = reference - new (GRPO, equations 3 and 4), averaged over the scored tokens. At the level of
    sequences both are first averaged over each answer's tokens, so that a ratio belongs to the
    whole answer and not to its length (GSPO, arXiv:2507.18071; ESPO, arXiv:2512.03759); answers
    then count alike.
    """
    weight_BL = scored_BL.float()
    if level == "sequence":
        length_B1 = weight_BL.sum(1, keepdim=True).clamp(min=1)
        new_BL, old_BL, reference_BL = (
            (states * weight_BL).sum(1, keepdim=True) / length_B1
            for states in (new_BL, old_BL, reference_BL)
        )
        weight_BL = torch.ones_like(length_B1)
    ratio = (new_BL - old_BL).exp()
    advantage = advantage_B[:, None]
    clipped = ratio.clamp(1 - clip_low, 1 + clip_high)
    gain = torch.minimum(ratio * advantage, clipped * advantage)
    gap = reference_BL - new_BL
    divergence = gap.exp() - gap - 1
    count = weight_BL.sum().clamp(min=1)
    gain, divergence, cut = (
        (states * weight_BL).sum() / count
        for states in (gain, divergence, (gain < ratio * advantage).float())
    )
    figures = {"kl": float(divergence.detach()), "clipped": float(cut.detach())}
    return kl * divergence - gain, figures
