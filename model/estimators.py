"""Estimators of an answer's log-probability under a masked diffusion model, for DPO and GRPO.

A diffusion model has no cheap exact likelihood, so each estimator is a list of views: what a pass
hides, which of the hidden tokens it scores, and with what weight. Policy, behaviour policy and
reference are scored under the same views, which makes their ratio exactly 1 before an update. The
objective is `model.preference`'s.
Shapes: B sequences, R some of them, L length, K slices, P of them picked.

GRPO's views take the window that was denoised, `window_BL`, and the answer in it up to its stop
token, `answer_BL`. The tail behind the answer was never decided on: it is hidden in every view and
scored in none, for its length would give the answer's away.
"""

from dataclasses import dataclass

import numpy as np
import torch

from model import diffusion
from model.llada import LLaDA
from model.training.draws import Random, timesteps, uniform


@dataclass(frozen=True)
class View:
    """One pass over a batch: `scored_BL`, part of `hidden_BL`, counts `weight_B` times.

    `share_B` is the probability with which a sequence's scored tokens were picked to be scored, 1
    where all are.
    """

    hidden_BL: torch.Tensor
    scored_BL: torch.Tensor
    weight_B: torch.Tensor
    share_B: torch.Tensor | None = None

    def rows(self, rows: torch.Tensor) -> "View":
        """The same view of some of the sequences."""
        share_B = None if self.share_B is None else self.share_B[rows]
        return View(self.hidden_BL[rows], self.scored_BL[rows], self.weight_B[rows], share_B)


def one_pass(
    window_BL: torch.Tensor,
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
    draw_BL = _uniform(window_BL, generator)
    return [_view(window_BL | ((draw_BL < prompt_mask) & prompt_BL), answer_BL)]


def complementary(
    window_BL: torch.Tensor, answer_BL: torch.Tensor, *, generator: torch.Generator
) -> list[View]:
    """Two views that share the answer's tokens out between them, and the fully masked one.

    Coupled-GRPO (DiffuCoder, arXiv:2506.20639, section 4, and apple/ml-diffucoder): a mask ratio
    t ~ U(0.2, 0.8) hides a token in the first of the two, or else in the second. Its score is the
    mean of log p with everything hidden and of 1/t, or 1/(1-t), times log p where it is hidden.
    There t is one for all answers of a process, here each answer draws its own. The weights make a
    score a log-probability times (1 + 1/t) / 2, up to 3: ratios of it are steeper than those of
    probabilities and clipped sooner.
    """
    t_B = 0.2 + 0.6 * torch.rand(len(answer_BL), generator=generator, device=answer_BL.device)
    drawn_BL = _uniform(answer_BL, generator) < t_B[:, None]
    tail_BL = window_BL & ~answer_BL
    first_BL, second_BL = answer_BL & drawn_BL, answer_BL & ~drawn_BL
    return [
        View(first_BL | tail_BL, first_BL, 0.5 / t_B),
        View(second_BL | tail_BL, second_BL, 0.5 / (1 - t_B)),
        _view(window_BL, answer_BL, weight=0.5),
    ]


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


def quadrature(
    window_BL: torch.Tensor, answer_BL: torch.Tensor, *, points: int, generator: torch.Generator
) -> list[View]:
    """The ELBO by a fixed quadrature over t, one mask a point: sum_n w_n / t_n * sum of log p.

    GDPO (arXiv:2510.08554, section 4): Gauss-Legendre nodes t_n and weights w_n on (0, 1) replace
    the draws of t, where most of the variance comes from; only the masks are random.
    """
    nodes, weights = np.polynomial.legendre.leggauss(points)
    tail_BL = window_BL & ~answer_BL
    views = []
    for t, w in zip((nodes + 1) / 2, weights / 2, strict=True):
        drawn_BL = (_uniform(answer_BL, generator) < t) & answer_BL
        views.append(_view(drawn_BL | tail_BL, drawn_BL, weight=float(w / t)))
    return views


def trajectory(
    window_BL: torch.Tensor,
    answer_BL: torch.Tensor,
    order_BL: torch.Tensor,
    *,
    slice_tokens: int,
    passes: int,
    generator: torch.Generator,
) -> list[View]:
    """Each token under what was in sight when it was committed, up to a slice of the answer.

    TraceRL (arXiv:2509.06949, section 4.2): the tokens of an answer, in the order `order_BL` of the
    passes that committed them, are cut into slices of `slice_tokens`, the first of them shortened
    at random; tokens of one pass stay together. A view hides a slice and what came later, and
    scores the slice. An answer of more than `passes` slices has that many of them scored, drawn
    uniformly without replacement; `share_B` is their share, for `token_weights`.

    What is biased: within a slice a token is scored without those that were committed before it in
    the slice, so that log p is too low; with a slice a pass (`slice_tokens=1`) it is the sampler's
    own, but for what the sampler saw behind the stop token before the answer had ended, which is
    hidden here, and for keys that its cache had not renewed. What is not: drawing slices leaves
    each score as it is, and the objective's sum over the tokens, weighted by `token_weights`, has
    the expectation of that over all slices.
    """
    slice_BL = _slices(answer_BL, order_BL, slice_tokens, generator)
    tail_BL = window_BL & ~answer_BL
    picked_BP, share_B = _picked(slice_BL, passes, generator)
    views = []
    for this_B in picked_BP.T:
        scored_BL = slice_BL == this_B[:, None]
        later_BL = answer_BL & (slice_BL >= this_B[:, None])
        weight_B = torch.ones(len(answer_BL), device=answer_BL.device)
        views.append(View(later_BL | tail_BL, scored_BL, weight_B, share_B))
    return views


def _slices(
    answer_BL: torch.Tensor, order_BL: torch.Tensor, size: int, generator: torch.Generator
) -> torch.Tensor:
    """The slice of each answer token [B, L], from 0; -1 elsewhere.

    It follows from how many tokens of the answer were committed in earlier passes.
    """
    unknown = torch.iinfo(order_BL.dtype).max
    order_BL = order_BL.masked_fill(~answer_BL, unknown)
    earlier_BL = torch.searchsorted(order_BL.sort(1).values, order_BL)
    shape = (len(order_BL), 1)
    offset_B1 = torch.randint(size, shape, generator=generator, device=order_BL.device)
    return ((earlier_BL + offset_B1) // size).masked_fill(~answer_BL, -1)


def _picked(
    slice_BL: torch.Tensor, passes: int, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """The slices [B, P] that are scored, in order, and each row's share of its slices [B].

    P is at most `passes`; a row that has fewer is filled up with slices that it does not have.
    """
    count = int(slice_BL.max()) + 1
    each_K = torch.arange(count, device=slice_BL.device)
    exists_BK = torch.stack([(slice_BL == number).any(1) for number in range(count)], 1)
    key_BK = _uniform(exists_BK, generator).masked_fill(~exists_BK, 2.0)
    chosen_BK = exists_BK & (key_BK.argsort(1).argsort(1) < passes)
    picked_BK = torch.where(chosen_BK, each_K, count).sort(1).values
    share_B = chosen_BK.sum(1) / exists_BK.sum(1)
    return picked_BK[:, : int(chosen_BK.sum(1).max())], share_B


def token_weights(views: list[View]) -> torch.Tensor:
    """How often each token counts in the objective [B, L]: 0 where no view scores it, 1 where one
    does, and the inverse of the share where slices were drawn (Horvitz and Thompson)."""
    total_BL = torch.zeros(views[0].scored_BL.shape, device=views[0].scored_BL.device)
    for view in views:
        times_B = torch.ones_like(view.weight_B) if view.share_B is None else 1 / view.share_B
        total_BL = torch.maximum(total_BL, view.scored_BL * times_B[:, None])
    return total_BL


def log_probabilities(
    model: LLaDA,
    tokens_BL: torch.Tensor,
    attention_BL: torch.Tensor,
    views: list[View],
    *,
    temperature: float = 1.0,
) -> torch.Tensor:
    """The weighted log p of every scored token, summed over the views: [B, L], zero elsewhere.

    p is the softmax of the logits divided by `temperature`, over the whole vocabulary. The sampler
    never proposes the mask, whose share of p is what its own distribution lacks; no target is ever
    a mask, so that a trained model gives it next to nothing. A view that scores nothing of a row
    leaves the row out.
    """
    wide = torch.promote_types(model.head_weight.dtype, torch.float32)
    total_BL = torch.zeros(tokens_BL.shape, dtype=wide, device=tokens_BL.device)
    for view in views:
        rows_R = view.scored_BL.any(1).nonzero()[:, 0]
        if not 0 < len(rows_R) < len(tokens_BL):
            rows_R = torch.arange(len(tokens_BL), device=tokens_BL.device)
        view, tokens_RL = view.rows(rows_R), tokens_BL[rows_R]
        noisy_RL = tokens_RL.masked_fill(view.hidden_BL, model.config.mask_token_id)
        loss_RL = diffusion.masked_cross_entropy(
            model,
            noisy_RL,
            tokens_RL,
            view.scored_BL,
            attention_BL[rows_R],
            temperature=temperature,
        )
        total_BL = total_BL.index_add(0, rows_R, -view.weight_B[:, None] * loss_RL)
    return total_BL


def _view(hidden_BL: torch.Tensor, scored_BL: torch.Tensor, *, weight: float = 1.0) -> View:
    return View(
        hidden_BL, scored_BL, torch.full((len(hidden_BL),), weight, device=hidden_BL.device)
    )


def _uniform(like_BL: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return torch.rand(like_BL.shape, generator=generator, device=like_BL.device)
