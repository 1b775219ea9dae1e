"""Preference optimization and reinforcement learning for masked diffusion models.

DPO with variance-reduced ELBO margins (VRPO, LLaDA 1.5, arXiv:2505.19223) and GRPO's advantages
and objective. All are functions of tensors; `model.estimators` estimates the log-probabilities.
Shapes: B sequences, L length, N prompts, G answers per prompt.
"""

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from model import estimators
from model.estimators import View
from model.llada import LLaDA
from model.options import MarginLoss, RatioLevel, check


def dpo_loss(
    margin_B: torch.Tensor,
    *,
    beta: float,
    kind: MarginLoss = "sigmoid",
    label_smoothing: float = 0.0,
) -> torch.Tensor:
    """The preference loss [B] of each margin.

    A margin m is (policy - reference) of the chosen answer minus (policy - reference) of the
    rejected one, four ELBOs each averaged over its draws before this loss (VRPO, section 3).

    `sigmoid`: -log sigmoid(beta m) (DPO, arXiv:2305.18290, equation 7). A share `label_smoothing`
    of the pairs is assumed to have its labels swapped (conservative DPO).
    `ipo`: (m - 1 / (2 beta))^2 (arXiv:2310.12036, equation 17), without label smoothing.
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
    """Each answer's ELBO [B], averaged over its draws, with the memory of a single draw.

    The backward pass computes each draw again from its view, so that memory does not grow with the
    number of draws.
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
    """How much better each answer is than its prompt's group: [N, G], exactly 0 without a spread.

    r - mean, divided by the group's standard deviation (GRPO, arXiv:2402.03300) unless `normalize`
    is off (Dr. GRPO, arXiv:2503.20783: dividing favors questions that are too easy or too hard).
    `leave_one_out` compares with the mean of the group's other answers (RLOO, arXiv:2402.14740),
    which is (r - mean) G / (G - 1). Raises ValueError on a reward that is not finite.

    `scale` is the largest possible reward; a group with a larger one uses its own. Differences
    below 1e-9 of it (or 16 units of rounding, for rewards of less precision) are rounding errors
    and count as 0: divided by an equally small deviation they would become full advantages, and
    AdamW makes a whole step of any gradient.
    """
    check("rewards", reward_NG.tolist(), bool(reward_NG.isfinite().all()), "finite numbers")
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
    level: RatioLevel = "token",
) -> tuple[torch.Tensor, dict[str, float]]:
    """The clipped objective with the k3 divergence: the loss, and its figures for the log.

    -min(r A, clip(r, 1 - low, 1 + high) A) + kl * (exp(d) - d - 1), with r = exp(new - old) and
    d = reference - new (GRPO, equations 3 and 4), weighted by `weight_BL` (0 for a token that is
    not scored), summed over the tokens and divided by `count`: the number of scored tokens in the
    whole optimizer step, of which this call may see a micro-batch. None counts those of this call.

    At level `sequence` log-probabilities are first averaged over each answer's tokens, so that a
    ratio describes the answer regardless of its length (GSPO, arXiv:2507.18071; ESPO,
    arXiv:2512.03759). All answers then count alike, and `count` is their number.

    The figures are `kl`, the mean divergence, and `clipped`, the share of clipped ratios.
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
    gain, divergence, share = (
        (states * weight_BL).sum() / count
        for states in (gain, divergence, (gain < ratio * advantage).float())
    )
    figures = {"kl": float(divergence.detach()), "clipped": float(share.detach())}
    return kl * divergence - gain, figures
