"""What a denoising pass commits: a token for each masked position, its confidence, and the choice.

The fixed schedule and random remasking are LLaDA's (arXiv:2502.09992, algorithms 4 and 5), the
threshold and the factor Fast-dLLM's (arXiv:2505.22618). The passes themselves are the sampler's.
Shapes: B batch, M masked positions, V vocabulary.
"""

from collections.abc import Sequence
from typing import Literal

import torch

Remasking = Literal["low_confidence", "random"]


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
    generator: torch.Generator | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """A token for each position, drawn with Gumbel noise in float64, and its confidence [B, M].

    The mask is never proposed; the confidence is the softmax over the whole vocabulary, at
    temperature 1. Tokens in `deferred` leave that softmax once the tokens are drawn, which moves
    the order of all others, and get a confidence of -1 (at random: in random order below 0). Raises
    ValueError when the logits are not finite.
    """
    scores_BMV = logits_BMV.log_softmax(-1)
    late = torch.as_tensor(deferred, dtype=torch.long, device=logits_BMV.device)
    rest_BM = scores_BMV.index_fill(-1, late, -torch.inf).logsumexp(-1) if deferred else 0.0
    scores_BMV[..., mask_id] = -torch.inf
    noisy = _add_noise(scores_BMV, temperature, generator) if temperature > 0 else scores_BMV
    token_BM = noisy.argmax(-1)
    chosen_BM = scores_BMV.gather(-1, token_BM[..., None])[..., 0]
    if not chosen_BM.isfinite().all():
        raise ValueError("the logits are not finite: the model's weights hold NaN or infinity")
    confidence_BM = (chosen_BM - rest_BM).exp()
    if remasking == "random":
        confidence_BM = torch.rand(token_BM.shape, device=token_BM.device, generator=generator)
    if deferred:
        below = confidence_BM - 2 if remasking == "random" else torch.full_like(confidence_BM, -1.0)
        confidence_BM = torch.where(torch.isin(token_BM, late), below, confidence_BM)
    return token_BM, confidence_BM


def choose(
    confidence_BM: torch.Tensor,
    masked_BM: torch.Tensor,
    turns_left: int,
    threshold: float | None,
    factor: float | None,
    window: tuple[torch.Tensor, int] | None = None,
) -> torch.Tensor:
    """Which masked positions to commit in this pass: at least one a row that has any.

    The last pass of a block commits all of them. Without `threshold` and `factor` the masks are
    shared out evenly over the passes left, the remainder first. `factor` f takes the largest n with
    (n + 1)(1 - c_n) < f, confidences c sorted down. Of equal confidences the first in the row go
    first. With `window`, the positions' places [B, M] in windows of so many tokens, `torch.topk` of
    each window settles them, as upstream does.
    """
    ranked, order = torch.sort(
        confidence_BM.masked_fill(~masked_BM, -torch.inf), dim=-1, descending=True, stable=True
    )
    count_B1 = masked_BM.sum(-1, keepdim=True)
    rank = torch.arange(ranked.shape[-1], device=ranked.device)
    if turns_left == 1:
        take_B1 = count_B1
    elif threshold is not None:
        take_B1 = (ranked >= threshold).sum(-1, keepdim=True).clamp(min=1)
    elif factor is not None:
        fits = ((rank + 2) * (1 - ranked) < factor) & (ranked >= 0)
        take_B1 = ((rank + 1) * fits).amax(-1, keepdim=True).clamp(min=1)
    else:
        take_B1 = -(-count_B1 // turns_left)
    commit = torch.zeros_like(masked_BM)
    if window is not None:
        places_BM, length = window
        whole_BL = ranked.new_full((len(ranked), length), -torch.inf)
        whole_BL.scatter_(1, places_BM, confidence_BM.masked_fill(~masked_BM, -torch.inf))
        return _top(whole_BL, take_B1.minimum(count_B1)).gather(1, places_BM) & masked_BM
    return commit.scatter(-1, order, rank < take_B1) & masked_BM


def _top(confidence_BL: torch.Tensor, take_B1: torch.Tensor) -> torch.Tensor:
    """The `take_B1` places of each row that `torch.topk` takes."""
    taken_BL = torch.zeros_like(confidence_BL, dtype=torch.bool)
    for take in take_B1.unique().tolist():
        rows_R1 = (take_B1 == take).nonzero()[:, :1]
        taken_BL[rows_R1, confidence_BL[rows_R1[:, 0]].topk(take).indices] = True
    return taken_BL


def _add_noise(
    scores: torch.Tensor, temperature: float, generator: torch.Generator | None
) -> torch.Tensor:
    """scores / T + Gumbel noise, times T; minus the log of an exponential draw is Gumbel."""
    draw = torch.empty(scores.shape, dtype=torch.float64, device=scores.device)
    return draw.exponential_(generator=generator).log_().mul_(-temperature).add_(scores)
