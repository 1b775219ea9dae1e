"""Preference optimisation and reinforcement learning for masked diffusion models.

DPO with variance-reduced ELBO margins (VRPO, LLaDA 1.5, arXiv:2505.19223) and GRPO's advantages
and objective. Functions of tensors; log-probabilities are estimated in `model.estimators`, the
data, the rollouts and the loops are the stages'.
Shapes: B sequences, L length, N prompts, G answers per prompt.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from model import estimators
from model.estimators import View
from model.llada import LLaDA

Kind = Literal["sigmoid", "ipo"]


def dpo_loss(
    margin_B: torch.Tensor, *, beta: float, kind: Kind = "sigmoid", label_smoothing: float = 0.0
) -> torch.Tensor:
    """The preference loss of each margin [B]: (policy - reference) of the chosen answer minus that
    of the rejected one, each an ELBO averaged over its draws before this loss (VRPO).

    `sigmoid`: -log sigmoid(beta m) (DPO, arXiv:2305.18290, equation 7), with the share
    `label_smoothing` of the pairs taken as labelled the wrong way round (conservative DPO).
    `ipo`: (m - 1 / (2 beta))^2 (arXiv:2310.12036, equation 17), which has no smoothing.
    """
    if kind == "ipo":
        return (margin_B - 1 / (2 * beta)).square()
    right, wrong = F.logsigmoid(beta * margin_B), F.logsigmoid(-beta * margin_B)
    return -(1 - label_smoothing) * right - label_smoothing * wrong


def elbo(
    model: LLaDA,
    tokens_BL: torch.Tensor,
    attention_BL: torch.Tensor,
    views: list[View],
) -> torch.Tensor:
    """Each answer's ELBO [B], averaged over its draws, at the memory of one draw.

    Where gradients are wanted, a draw keeps nothing but its noise and is computed again when its
    gradient is due, so that memory does not grow with the draws.
    """

    def draw(view: View) -> torch.Tensor:
        return estimators.log_probabilities(model, tokens_BL, attention_BL, [view]).sum(1)

    if not torch.is_grad_enabled():
        return torch.stack([draw(view) for view in views]).sum(0)
    draws = [checkpoint(draw, view, use_reentrant=False) for view in views]
    return torch.stack(draws).sum(0)


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
