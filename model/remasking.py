"""One denoising pass: a token and a confidence for each masked position, and which to commit.

The fixed schedule and random remasking are LLaDA's (arXiv:2502.09992, algorithms 4 and 5), the
threshold and the factor Fast-dLLM's (arXiv:2505.22618). `model.sampler` runs the passes.
Shapes: B batch, L window, M masked positions, V vocabulary.
"""

from collections.abc import Callable, Sequence

import torch

from model.options import Remasking

Noise = torch.Generator | Sequence[torch.Generator] | None
"""Where noise comes from: a generator for all rows, or one for each."""


def penalize(logits_BMV: torch.Tensor, seen_BV: torch.Tensor, penalty: float) -> torch.Tensor:
    """CTRL's repetition penalty (arXiv:1909.05858, section 4.1), for tokens that a row holds.

    Positive logits are divided by it and negative ones multiplied, so that the token becomes less
    likely whatever the sign.
    """
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
    """A token for each position and its confidence [B, M].

    Tokens are drawn from softmax(logits / temperature) with Gumbel noise in float64, at temperature
    0 by argmax; the mask is never drawn. The confidence of a token is its probability at
    temperature 1, or uniform noise with `remasking` "random". Tokens in `deferred` get a confidence
    below 0, so that all others are committed first, and the other confidences are a softmax over
    the rest of the vocabulary. With a generator for each row, a row draws for its `masked_BM`
    positions alone, which come first: the rows beside it change nothing. Raises ValueError when the
    logits are not finite.
    """
    scores_BMV = logits_BMV.log_softmax(-1)
    late_D = torch.as_tensor(deferred, dtype=torch.long, device=logits_BMV.device)
    rest_BM = scores_BMV.index_fill(-1, late_D, -torch.inf).logsumexp(-1) if deferred else 0.0
    scores_BMV[..., mask_id] = -torch.inf
    noisy_BMV = scores_BMV
    if temperature > 0:
        noisy_BMV = _add_noise(scores_BMV, temperature, generator, masked_BM)
    token_BM = noisy_BMV.argmax(-1)
    score_BM = scores_BMV.gather(-1, token_BM[..., None])[..., 0]
    if not score_BM.isfinite().all():
        raise ValueError("the logits are not finite: the model's weights hold NaN or infinity")
    confidence_BM = (score_BM - rest_BM).exp()
    if remasking == "random":
        confidence_BM = _draw(torch.rand, token_BM, generator, masked_BM)
    if deferred:
        # Deferred tokens keep a random order among themselves where all others have one.
        is_random = remasking == "random"
        below_BM = confidence_BM - 2 if is_random else torch.full_like(confidence_BM, -1.0)
        confidence_BM = torch.where(torch.isin(token_BM, late_D), below_BM, confidence_BM)
    return token_BM, confidence_BM


def choose(
    confidence_BM: torch.Tensor,
    masked_BM: torch.Tensor,
    turns_left: int | torch.Tensor,
    threshold: float | None,
    factor: float | None,
    places: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> torch.Tensor:
    """The masked positions to commit in this pass [B, M]: at least one in each row that has any.

    The last pass of a block commits all of them; `turns_left` is one number, or one a row [B].
    Without `threshold` and `factor` the passes left
    share the masks evenly, the first ones taking the remainder. `threshold` commits every position
    of at least that confidence; `factor` f commits the n most confident, for the largest n with
    (n + 1)(1 - c_n) < f over the confidences c_1 >= c_2 >= ...

    Of equal confidences the leftmost is committed first. Deferred tokens all tie, and upstream
    breaks such ties by `torch.topk` over the whole sequence; `places`, the positions' places [B, M]
    in each row and the length [B] of the row, makes the same choice.
    """
    ranked_BM, order_BM = torch.sort(
        confidence_BM.masked_fill(~masked_BM, -torch.inf), dim=-1, descending=True, stable=True
    )
    count_B1 = masked_BM.sum(-1, keepdim=True)
    rank_M = torch.arange(ranked_BM.shape[-1], device=ranked_BM.device)
    turns_B1 = torch.as_tensor(turns_left, device=ranked_BM.device).reshape(-1, 1)
    if threshold is not None:
        take_B1 = (ranked_BM >= threshold).sum(-1, keepdim=True).clamp(min=1)
    elif factor is not None:
        # Ranks count from 0, the rule from n = 1. Filled-up positions have confidence -infinity.
        fits_BM = ((rank_M + 2) * (1 - ranked_BM) < factor) & (ranked_BM >= 0)
        take_B1 = ((rank_M + 1) * fits_BM).amax(-1, keepdim=True).clamp(min=1)
    else:
        take_B1 = -(-count_B1 // turns_B1)
    take_B1 = torch.where(turns_B1 == 1, count_B1, take_B1)
    if places is not None:
        return _top(confidence_BM, masked_BM, take_B1.minimum(count_B1), *places)
    return torch.zeros_like(masked_BM).scatter(-1, order_BM, rank_M < take_B1) & masked_BM


def _top(confidence_BM, masked_BM, take_B1, places_BM, lengths_B) -> torch.Tensor:
    """The positions of each row's `take_B1` largest confidences, ties broken by `torch.topk`."""
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
    """T (scores / T + Gumbel noise): minus the log of an exponential draw is Gumbel noise."""

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
    """Noise in the shape of a tensor [B, M, ...]; each row's own generator draws for its masks."""
    if not isinstance(noise, Sequence):
        return sample(like.shape, generator=noise, device=like.device)
    assert masked_BM is not None, "a row with a generator of its own draws for its masks"
    rows = []
    counts = masked_BM.sum(1).tolist()  # at once: each number on its own would wait for the GPU
    for generator, count, row in zip(noise, counts, like, strict=True):
        drawn = sample((count, *row.shape[1:]), generator=generator, device=like.device)
        rows.append(torch.cat((drawn, drawn.new_ones(len(row) - count, *row.shape[1:]))))
    return torch.stack(rows)
