"""Preference optimization and reinforcement learning for masked diffusion models.

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
    reward_NG: torch.Tensor,
    *,
    normalize: bool = True,
    leave_one_out: bool = False,
    scale: float = 0.0,
) -> torch.Tensor:
    """How much better each answer is than its prompt's group: [N, G], exactly 0 without spread.

    r - mean, divided by the group's deviation (GRPO, arXiv:2402.03300) unless `normalize` is off
    (Dr. GRPO, arXiv:2503.20783: the division favours questions that are too easy or too hard).
    `leave_one_out` compares with the mean of the others (RLOO, arXiv:2402.14740): r - mean times
    G / (G - 1). Raises ValueError on a reward that is not finite.

    Computed in fp64. Differences of less than `scale`, the largest reward that there can be (that
    of the group if it is larger), times 1e-9, or times 16 units of rounding where the rewards are
    of less precision, are rounding: AdamW would make a whole step of them.
    """
    if not reward_NG.isfinite().all():
        raise ValueError(f"rewards={reward_NG.tolist()}, allowed: finite numbers")
    precision = max(1e-9, 16 * torch.finfo(reward_NG.dtype).eps)
    wide_NG, group = reward_NG.double(), reward_NG.shape[1]
    noise_N1 = precision * wide_NG.abs().amax(1, keepdim=True).clamp(min=scale)
    centred_NG = wide_NG - wide_NG.mean(1, keepdim=True)
    is_flat_N1 = wide_NG.amax(1, keepdim=True) - wide_NG.amin(1, keepdim=True) <= noise_N1
    centred_NG = centred_NG.masked_fill(is_flat_N1 | (centred_NG.abs() <= noise_N1), 0.0)
    if leave_one_out:
        centred_NG = centred_NG * group / (group - 1)
    if normalize:
        centred_NG = centred_NG / (wide_NG.std(1, keepdim=True) + 1e-4)
    return centred_NG.to(reward_NG.dtype)


def grpo_loss(
    new_BL: torch.Tensor,
    old_BL: torch.Tensor,
    reference_BL: torch.Tensor,
    advantage_B: torch.Tensor,
    weight_BL: torch.Tensor,
    *,
    count: float | None = None,
    clip_low: float,
    clip_high: float,
    kl: float,
    level: Literal["token", "sequence"] = "token",
) -> tuple[torch.Tensor, dict[str, float]]:
    """The clipped objective with the k3 divergence: the loss, and what a log should know of it.

    -min(r A, clip(r, 1 - low, 1 + high) A) + kl * (exp(d) - d - 1), with r = exp(new - old) and
    d = reference - new (GRPO, equations 3 and 4), summed over the tokens times `weight_BL` (0 where
    a token is not scored) and divided by `count`. That is the number of scored tokens of the whole
    optimizer step, of which these may be a micro-batch; None takes these alone. At the level of
    sequences both are first averaged over each answer's tokens, so that a ratio belongs to the
    whole answer and not to its length (GSPO, arXiv:2507.18071; ESPO, arXiv:2512.03759); answers
    then count alike, and `count` is their number.
    """
    weight_BL = weight_BL.float()
    if level == "sequence":
        length_B1 = weight_BL.sum(1, keepdim=True).clamp(min=1)
        new_BL, old_BL, reference_BL = (
            (states * weight_BL).sum(1, keepdim=True) / length_B1
            for states in (new_BL, old_BL, reference_BL)
        )
        weight_BL = torch.ones_like(length_B1)
    if count is None:
        count = max(float(weight_BL.sum()), 1.0)
    ratio = (new_BL - old_BL).exp()
    advantage = advantage_B[:, None]
    clipped = ratio.clamp(1 - clip_low, 1 + clip_high)
    gain = torch.minimum(ratio * advantage, clipped * advantage)
    gap = reference_BL - new_BL
    divergence = gap.exp() - gap - 1
    gain, divergence, cut = (
        (states * weight_BL).sum() / count
        for states in (gain, divergence, (gain < ratio * advantage).float())
    )
    figures = {"kl": float(divergence.detach()), "clipped": float(cut.detach())}
    return kl * divergence - gain, figures
