"""Estimators of an answer's log-probability under a masked diffusion model, for DPO and GRPO.

A diffusion model has no cheap exact likelihood, so an estimator is a list of views, each a pass
that hides some tokens and scores some of the hidden ones with a weight. Policy, behavior policy and
reference are scored under the same views, so that their ratio is exactly 1 before an update. The
objectives are in `model.preference`.
Shapes: B sequences, R some of them, L length, K slices, P scored slices.

GRPO's estimators take two masks: `generated_BL`, all generated positions, and `answer_BL`, those up
to the stop token. The tail behind the stop token is padding that the sampler did not choose. Every
view hides the tail and none scores it: in sight, it would give away the answer's length.
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

    `share_B` is the probability with which each scored token was selected for scoring; None where
    all tokens are scored.
    """

    hidden_BL: torch.Tensor
    scored_BL: torch.Tensor
    weight_B: torch.Tensor
    share_B: torch.Tensor | None = None

    def rows(self, rows: torch.Tensor) -> "View":
        """The view of a subset of the sequences."""
        share_B = None if self.share_B is None else self.share_B[rows]
        return View(self.hidden_BL[rows], self.scored_BL[rows], self.weight_B[rows], share_B)


def one_pass(
    generated_BL: torch.Tensor,
    answer_BL: torch.Tensor,
    prompt_BL: torch.Tensor,
    *,
    prompt_mask: float,
    generator: torch.Generator,
) -> list[View]:
    """The whole answer hidden at once, and each prompt token with probability `prompt_mask`.

    diffu-GRPO (d1, arXiv:2504.12216, section 3.2): a single pass scores every token as if it were
    independent of the others. Masks in the prompt vary what the answer is conditioned on.
    """
    draw_BL = _uniform(generated_BL, generator)
    return [_view(generated_BL | ((draw_BL < prompt_mask) & prompt_BL), answer_BL)]


def complementary(
    generated_BL: torch.Tensor, answer_BL: torch.Tensor, *, generator: torch.Generator
) -> list[View]:
    """Two complementary views, each scoring the tokens that the other shows, and a full one.

    Coupled-GRPO (DiffuCoder, arXiv:2506.20639, section 4, and apple/ml-diffucoder): with a mask
    ratio t ~ U(0.2, 0.8) each token is hidden in the first view (probability t) or in the second.
    Its score is the mean of two terms: log p with the whole answer hidden, and log p where it is
    hidden times 1/t (first view) or 1/(1-t) (second). The published code draws one t for all
    answers of a process; here each answer draws its own. A score is about (1 + 1/t) / 2 log p, up
    to 3 log p, so its ratios are steeper than ratios of probabilities and are clipped sooner.
    """
    t_B = 0.2 + 0.6 * torch.rand(len(answer_BL), generator=generator, device=answer_BL.device)
    is_first_BL = _uniform(answer_BL, generator) < t_B[:, None]
    tail_BL = generated_BL & ~answer_BL
    first_BL, second_BL = answer_BL & is_first_BL, answer_BL & ~is_first_BL
    return [
        View(first_BL | tail_BL, first_BL, 0.5 / t_B),
        View(second_BL | tail_BL, second_BL, 0.5 / (1 - t_B)),
        _view(generated_BL, answer_BL, weight=0.5),
    ]


def monte_carlo(answer_BL: torch.Tensor, *, draws: int, generator: Random) -> list[View]:
    """The ELBO by Monte Carlo: mean over draws of A/k times the sum of log p over k hidden tokens.

    VRPO (LLaDA 1.5, arXiv:2505.19223, section 3.2) spends its passes on many timesteps with one
    mask each. Exactly k of an answer's A tokens are hidden, k ~ U{1..A} (LLaDA, equation 6); hiding
    each token with probability t varies more (1.5 times the variance of a margin with one draw).
    The counts of a sequence are stratified: k_n = floor(t_n A) + 1, t_n = (t + n / draws) mod 1.
    An empty answer hides nothing.
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
    generated_BL: torch.Tensor, answer_BL: torch.Tensor, *, points: int, generator: torch.Generator
) -> list[View]:
    """The ELBO by a fixed quadrature over t, one mask per point: sum_n w_n / t_n * sum of log p.

    GDPO (arXiv:2510.08554, section 4): Gauss-Legendre nodes t_n with weights w_n on (0, 1) replace
    random t, which causes most of the variance. Only the masks are random.
    """
    nodes, weights = np.polynomial.legendre.leggauss(points)
    tail_BL = generated_BL & ~answer_BL
    views = []
    for t, w in zip((nodes + 1) / 2, weights / 2, strict=True):
        scored_BL = (_uniform(answer_BL, generator) < t) & answer_BL
        views.append(_view(scored_BL | tail_BL, scored_BL, weight=float(w / t)))
    return views


def trajectory(
    generated_BL: torch.Tensor,
    answer_BL: torch.Tensor,
    order_BL: torch.Tensor,
    *,
    slice_tokens: int,
    passes: int,
    generator: torch.Generator,
) -> list[View]:
    """Each token given (nearly) the tokens that were in sight when it was committed.

    TraceRL (arXiv:2509.06949, section 4.2). The tokens of an answer are sorted by `order_BL`, the
    pass that committed them, and cut into slices of `slice_tokens`, the first one shorter by a
    random offset; tokens of one pass stay together. A view hides a slice and all later tokens and
    scores the slice. Of an answer with more than `passes` slices, that many are scored, drawn
    uniformly without replacement; `share_B` is their share of all slices, for `token_weights`.

    Scores are biased: a token does not see the tokens of its own slice that were committed before
    it, so log p is too low. With one pass per slice (`slice_tokens=1`) log p is the sampler's own,
    except that the tail behind the stop token is always hidden here, and that the sampler's cache
    may have held older keys. Drawing slices adds no bias: each score is unchanged, and the sum over
    tokens weighted by `token_weights` has the same expectation as the sum over all slices.
    """
    slice_BL = _slices(answer_BL, order_BL, slice_tokens, generator)
    tail_BL = generated_BL & ~answer_BL
    scored_BP, share_B = _draw_slices(slice_BL, passes, generator)
    views = []
    for number_B in scored_BP.T:
        scored_BL = slice_BL == number_B[:, None]
        hidden_BL = answer_BL & (slice_BL >= number_B[:, None])
        weight_B = torch.ones(len(answer_BL), device=answer_BL.device)
        views.append(View(hidden_BL | tail_BL, scored_BL, weight_B, share_B))
    return views


def _slices(
    answer_BL: torch.Tensor, order_BL: torch.Tensor, size: int, generator: torch.Generator
) -> torch.Tensor:
    """The number of each answer token's slice [B, L], from 0; -1 outside the answer.

    A token's slice follows from how many tokens of the answer earlier passes committed.
    """
    last = torch.iinfo(order_BL.dtype).max  # sorts positions outside the answer behind it
    order_BL = order_BL.masked_fill(~answer_BL, last)
    earlier_BL = torch.searchsorted(order_BL.sort(1).values, order_BL)
    shape = (len(order_BL), 1)
    offset_B1 = torch.randint(size, shape, generator=generator, device=order_BL.device)
    return ((earlier_BL + offset_B1) // size).masked_fill(~answer_BL, -1)


def _draw_slices(
    slice_BL: torch.Tensor, passes: int, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """The numbers of the slices to score [B, P], ascending, and their share of a row's slices [B].

    P is at most `passes`. A row with fewer slices is filled up with numbers that no slice has.
    """
    count = int(slice_BL.max()) + 1
    number_K = torch.arange(count, device=slice_BL.device)
    exists_BK = torch.stack([(slice_BL == number).any(1) for number in range(count)], 1)
    # The `passes` smallest of random keys are a uniform draw without replacement.
    key_BK = _uniform(exists_BK, generator).masked_fill(~exists_BK, 2.0)
    is_scored_BK = exists_BK & (key_BK.argsort(1).argsort(1) < passes)
    scored_BK = torch.where(is_scored_BK, number_K, count).sort(1).values
    share_B = is_scored_BK.sum(1) / exists_BK.sum(1)
    return scored_BK[:, : int(is_scored_BK.sum(1).max())], share_B


def token_weights(views: list[View]) -> torch.Tensor:
    """The weight of each token in the objective [B, L].

    0 where no view scores it, 1 where one does, and where slices were drawn the inverse of their
    share (the Horvitz-Thompson estimator), which keeps the sum over tokens unbiased.
    """
    total_BL = torch.zeros(views[0].scored_BL.shape, device=views[0].scored_BL.device)
    for view in views:
        inverse_B = torch.ones_like(view.weight_B) if view.share_B is None else 1 / view.share_B
        total_BL = torch.maximum(total_BL, view.scored_BL * inverse_B[:, None])
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
    draws from the softmax without the mask token. The difference is negligible: the mask is never a
    target, so a trained model gives it almost no probability.
    """
    wide = torch.promote_types(model.head_weight.dtype, torch.float32)
    total_BL = torch.zeros(tokens_BL.shape, dtype=wide, device=tokens_BL.device)
    for view in views:
        rows_R = view.scored_BL.any(1).nonzero()[:, 0]
        # Rows of which this view scores nothing are left out; a batch needs one row at least.
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
