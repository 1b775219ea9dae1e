"""What a denoising pass commits: a token for each masked position, its confidence, and the choice.

The fixed schedule and random remasking are LLaDA's (arXiv:2502.09992, algorithms 4 and 5), the
threshold and the factor Fast-dLLM's (arXiv:2505.22618). The passes themselves are the sampler's.
Shapes: B batch, M masked positions, V vocabulary.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import torch

Remasking = Literal["low_confidence", "random"]
Noise = torch.Generator | Sequence[torch.Generator] | None
"""Where noise comes from: a generator for all rows, or one for each."""


def penalise(logits_BMV: torch.Tensor, seen_BV: torch.Tensor, penalty: float) -> torch.Tensor:
    """CTRL's repetition penalty (arXiv:1909.05858): a seen token always becomes less likely."""
    lowered = torch.where(logits_BMV > 0, logits_BMV / penalty, logits_BMV * penalty)
    return torch.where(seen_BV[:, None], lowered, logits_BMV)


def propose(
    logits_BMV: torch.Tensor,
    mask_id: int,
    *,
    temperature: float,
    remasking: Remasking,
    deferred: Sequence[int] = (),
    generator: Noise = None,
    masked_BM: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """A token for each position, drawn with Gumbel noise in float64, and its confidence [B, M].

    Of a generator for each row the row's `masked_BM` positions are drawn for, which come first: it
    draws the same whatever stands beside it. The mask is never proposed; the confidence is the
    softmax over the whole vocabulary, at temperature 1. Tokens in `deferred` leave that softmax
    once the tokens are drawn, which moves the order of all others, and get a confidence of -1 (at
    random: in random order below 0). Raises ValueError when the logits are not finite.
    """
    scores_BMV = logits_BMV.log_softmax(-1)
    late = torch.as_tensor(deferred, dtype=torch.long, device=logits_BMV.device)
    rest_BM = scores_BMV.index_fill(-1, late, -torch.inf).logsumexp(-1) if deferred else 0.0
    scores_BMV[..., mask_id] = -torch.inf
    noisy = scores_BMV
    if temperature > 0:
        noisy = _add_noise(scores_BMV, temperature, generator, masked_BM)
    token_BM = noisy.argmax(-1)
    chosen_BM = scores_BMV.gather(-1, token_BM[..., None])[..., 0]
    if not chosen_BM.isfinite().all():
        raise ValueError("the logits are not finite: the model's weights hold NaN or infinity")
    confidence_BM = (chosen_BM - rest_BM).exp()
    if remasking == "random":
        confidence_BM = _draw(torch.rand, token_BM, generator, masked_BM)
    if deferred:
        below = confidence_BM - 2 if remasking == "random" else torch.full_like(confidence_BM, -1.0)
        confidence_BM = torch.where(torch.isin(token_BM, late), below, confidence_BM)
    return token_BM, confidence_BM


def choose(
    confidence_BM: torch.Tensor,
    masked_BM: torch.Tensor,
    turns_left: int | torch.Tensor,
    threshold: float | None,
    factor: float | None,
    window: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> torch.Tensor:
    """Which masked positions to commit in this pass: at least one a row that has any.

    The last pass of a block commits all of them; `turns_left` may be [B]. Without `threshold` and
    `factor` the masks are shared out evenly over the passes left, the remainder first. `factor` f
    takes the largest n with (n + 1)(1 - c_n) < f, confidences c sorted down. Of equal confidences
    the first in the row go first. With `window`, the positions' places [B, M] in rows of so many
    tokens [B], `torch.topk` of each row settles them, as upstream does.
    """
    ranked, order = torch.sort(
        confidence_BM.masked_fill(~masked_BM, -torch.inf), dim=-1, descending=True, stable=True
    )
    count_B1 = masked_BM.sum(-1, keepdim=True)
    rank = torch.arange(ranked.shape[-1], device=ranked.device)
    turns_B1 = torch.as_tensor(turns_left, device=ranked.device).reshape(-1, 1)
    if threshold is not None:
        take_B1 = (ranked >= threshold).sum(-1, keepdim=True).clamp(min=1)
    elif factor is not None:
        fits = ((rank + 2) * (1 - ranked) < factor) & (ranked >= 0)
        take_B1 = ((rank + 1) * fits).amax(-1, keepdim=True).clamp(min=1)
    else:
        take_B1 = -(-count_B1 // turns_B1)
    take_B1 = torch.where(turns_B1 == 1, count_B1, take_B1)
    commit = torch.zeros_like(masked_BM)
    if window is not None:
        return _top(confidence_BM, masked_BM, take_B1.minimum(count_B1), *window)
    return commit.scatter(-1, order, rank < take_B1) & masked_BM


def _top(confidence_BM, masked_BM, take_B1, places_BM, lengths_B) -> torch.Tensor:
    """The `take_B1` positions of each row that `torch.topk` takes among all tokens of the row."""
    taken_BM = torch.zeros_like(masked_BM)
    for row, (take, length) in enumerate(
        zip(take_B1[:, 0].tolist(), lengths_B.tolist(), strict=True)
    ):
        masked_M = masked_BM[row]
        whole_L = confidence_BM.new_full((length,), -torch.inf)
        whole_L[places_BM[row, masked_M]] = confidence_BM[row, masked_M]
        taken_L = torch.zeros(length, dtype=torch.bool, device=whole_L.device)
        taken_L[whole_L.topk(take).indices] = True
        taken_BM[row, masked_M] = taken_L[places_BM[row, masked_M]]
    return taken_BM


def _add_noise(
    scores_BMV: torch.Tensor, temperature: float, noise: Noise, masked_BM: torch.Tensor | None
) -> torch.Tensor:
    """scores / T + Gumbel noise, times T; minus the log of an exponential draw is Gumbel."""

    def exponential(shape, *, generator, device) -> torch.Tensor:
        draw = torch.empty(shape, dtype=torch.float64, device=device)
        return draw.exponential_(generator=generator)

    draw_BMV = _draw(exponential, scores_BMV, noise, masked_BM)
    return draw_BMV.log_().mul_(-temperature).add_(scores_BMV)


def _draw(
    sample: Callable[..., torch.Tensor],
    like: torch.Tensor,
    noise: Noise,
    masked_BM: torch.Tensor | None,
) -> torch.Tensor:
    """Noise in the shape of a tensor [B, M, ...]; from a row's own generator for its masks
    alone."""
    if not isinstance(noise, Sequence):
        return sample(like.shape, generator=noise, device=like.device)
    assert masked_BM is not None, "a row with a generator of its own draws for its masks"
    rows = []
    for generator, masked_M, row in zip(noise, masked_BM, like, strict=True):
        drawn = sample(
            (int(masked_M.sum()), *row.shape[1:]), generator=generator, device=like.device
        )
        rows.append(torch.cat((drawn, drawn.new_ones(len(row) - len(drawn), *row.shape[1:]))))
    return torch.stack(rows)
