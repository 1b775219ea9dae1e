"""Estimators of an answer's log-probability under a masked diffusion model, for DPO and GRPO.

A diffusion model has no cheap exact likelihood, so each estimator is a list of views: what a pass
hides, which of the hidden tokens it scores, and with what weight. Policy, behaviour policy and
reference are scored under the same views, which makes their ratio exactly 1 before an update. The
objective is `model.preference`'s. Shapes: B sequences, L length.
"""

from dataclasses import dataclass

import numpy as np
import torch

from model import diffusion
from model.draws import Random, timesteps, uniform
from model.llada import LLaDA


@dataclass(frozen=True)
class View:
    """One pass over a batch: `scored_BL`, part of `hidden_BL`, counts `weight_B` times."""

    hidden_BL: torch.Tensor
    scored_BL: torch.Tensor
    weight_B: torch.Tensor

    def rows(self, rows: torch.Tensor) -> "View":
        """The same view of some of the sequences."""
        return View(self.hidden_BL[rows], self.scored_BL[rows], self.weight_B[rows])


def one_pass(
    answer_BL: torch.Tensor,
    prompt_BL: torch.Tensor,
    *,
    prompt_mask: float,
    generator: torch.Generator,
) -> list[View]:
    """The whole answer hidden at once, and each prompt token with probability `prompt_mask`.

    diffu-GRPO (d1, arXiv:2504.12216, section 3.2): every token is scored in a single pass, as if it
    were independent of the others. The prompt's masks vary the condition and are not scored.
    """
    draw_BL = _uniform(answer_BL, generator)
    return [_view(answer_BL | ((draw_BL < prompt_mask) & prompt_BL), answer_BL)]


def complementary(answer_BL: torch.Tensor, *, generator: torch.Generator) -> list[View]:
    """Two views that share the answer's tokens out between them.

    Coupled-GRPO (DiffuCoder, arXiv:2506.20639, section 4): each token is scored once, with part of
    the answer in sight, at a mask ratio t ~ U(0.2, 0.8) or its complement.
    """
    t_B = 0.2 + 0.6 * torch.rand(len(answer_BL), generator=generator, device=answer_BL.device)
    first_BL = (_uniform(answer_BL, generator) < t_B[:, None]) & answer_BL
    return [_view(first_BL, first_BL), _view(answer_BL & ~first_BL, answer_BL & ~first_BL)]


def monte_carlo(answer_BL: torch.Tensor, *, draws: int, generator: Random) -> list[View]:
    """The ELBO by Monte Carlo: mean over draws of A/k times the sum of log p over k hidden tokens.

    VRPO (LLaDA 1.5, arXiv:2505.19223, section 3.2) spends its budget on timesteps, each with one
    mask. Of an answer's A tokens exactly k are hidden (LLaDA, equation 6), k ~ U{1..A}, which
    varies less than a coin for each token at ratio t. The counts of a sequence are stratified:
    k_n = floor(t_n A) + 1 with t_n = (t + n / draws) mod 1. An empty answer hides nothing.
    """
    length_B = answer_BL.sum(1)
    t_B = timesteps(generator, len(answer_BL), answer_BL.device)
    views = []
    for number in range(draws):
        count_B = (((t_B + number / draws) % 1) * length_B).long() + 1
        draw_BL = uniform(generator, answer_BL, number).masked_fill(~answer_BL, 1)
        rank_BL = draw_BL.argsort(stable=True, dim=1).argsort(1)
        hidden_BL = (rank_BL < count_B[:, None]) & answer_BL
        views.append(View(hidden_BL, hidden_BL, length_B / (draws * count_B)))
    return views


def quadrature(answer_BL: torch.Tensor, *, points: int, generator: torch.Generator) -> list[View]:
    """The ELBO by a fixed quadrature over t, one mask a point: sum_n w_n / t_n * sum of log p.

    GDPO (arXiv:2510.08554, section 4): Gauss-Legendre nodes t_n and weights w_n on (0, 1) replace
    the draws of t, where most of the variance comes from; only the masks are random.
    """
    nodes, weights = np.polynomial.legendre.leggauss(points)
    views = []
    for t, w in zip((nodes + 1) / 2, weights / 2, strict=True):
        hidden_BL = (_uniform(answer_BL, generator) < t) & answer_BL
        views.append(_view(hidden_BL, hidden_BL, weight=float(w / t)))
    return views


def trajectory(
    order_BL: torch.Tensor, answer_BL: torch.Tensor, *, slices: int, generator: torch.Generator
) -> list[View]:
    """Each token under what was in sight when it was committed, up to a slice of the passes.

    TraceRL (arXiv:2509.06949, section 4.2): the passes of a rollout, `order_BL`, are cut into
    `slices` runs, of which a random offset cuts one in two; a view hides what was committed in its
    run or later and scores its run. More slices are closer to the sampler's own probability.
    """
    last = order_BL.masked_fill(~answer_BL, 0).amax(1, keepdim=True)
    offset_B1 = torch.rand(len(order_BL), 1, generator=generator, device=order_BL.device)
    slice_BL = ((order_BL - 1) / last * slices + offset_B1).long()
    return [
        _view(answer_BL & (slice_BL >= number), answer_BL & (slice_BL == number))
        for number in range(slices + 1)
        if (answer_BL & (slice_BL == number)).any()
    ]


def log_probabilities(
    model: LLaDA, tokens_BL: torch.Tensor, attention_BL: torch.Tensor, views: list[View]
) -> torch.Tensor:
    """The weighted log p of every scored token, summed over the views: [B, L], zero elsewhere."""
    total_BL = torch.zeros(tokens_BL.shape, device=tokens_BL.device)
    for view in views:
        noisy_BL = tokens_BL.masked_fill(view.hidden_BL, model.config.mask_token_id)
        loss_BL = diffusion.masked_cross_entropy(
            model, noisy_BL, tokens_BL, view.scored_BL, attention_BL
        )
        total_BL = total_BL - view.weight_B[:, None] * loss_BL
    return total_BL


def _view(hidden_BL: torch.Tensor, scored_BL: torch.Tensor, *, weight: float = 1.0) -> View:
    return View(
        hidden_BL, scored_BL, torch.full((len(hidden_BL),), weight, device=hidden_BL.device)
    )


def _uniform(like_BL: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return torch.rand(like_BL.shape, generator=generator, device=like_BL.device)
