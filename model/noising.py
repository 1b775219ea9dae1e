"""The noise of a training batch: LLaDA's, and four options around it, each off by default.

LLaDA samples t ~ U(0, 1) for a sequence and masks each token with the probability p (algorithm 1 of
arXiv:2502.09992). Packing samples a t for each document of a row. A bandwidth keeps t away from 0
and 1, a curriculum masks far positions more often, and complementary pairs add each mask's inverse.
Shapes: B batch, L length.
"""

from dataclasses import dataclass

import torch

from model.options import Curriculum, LossOptions
from model.training import draws
from model.training.draws import Random

EPS = 1e-3
GOLDEN = (5**0.5 - 1) / 2
PLAIN = LossOptions()


@dataclass(frozen=True)
class Noised:
    """A noisy batch. With complementary pairs it has 2B rows, the inverse masks in the second B."""

    tokens_BL: torch.Tensor
    """The clean tokens."""
    noisy_BL: torch.Tensor
    """The tokens that the network sees."""
    masked_BL: torch.Tensor
    """True where the mask replaced a token."""
    ratio: torch.Tensor
    """Probability of being masked, [B, 1] or [B, L]."""
    divisor: torch.Tensor
    """Divides a masked token's loss, [B, 1] or [B, L]: the ratio, except under a curriculum."""
    copies: int
    """Rows for each sequence: 2 with complementary pairs, else 1."""


def sample_timesteps(
    tokens_BL: torch.Tensor,
    documents_BL: torch.Tensor | None = None,
    *,
    generator: Random = None,
) -> torch.Tensor:
    """t ~ U(0, 1): [B, 1], one for each row, or [B, L], one for each document of packed rows.

    The rows are stratified, t_i = (u + i/B) mod 1 (Kingma et al., arXiv:2107.00630, appendix I.1):
    each t keeps its uniform marginal and the batch's loss varies less. Packed rows (`documents_BL`,
    see `model.attention`) have a t for each document, because a document is the sequence of LLaDA's
    objective: one t for the row would tie its documents together.
    """
    t_B1 = draws.timesteps(generator, len(tokens_BL), tokens_BL.device)[:, None]
    return t_B1 if documents_BL is None else _by_document(t_B1, documents_BL)


def sample_mask_ratio(
    batch: int,
    *,
    band: tuple[float, float] = PLAIN.band,
    lowest_inverse: float = 0.0,
    generator: Random = None,
    device: torch.device | str = "cpu",
) -> torch.Tensor:
    """p_B = (1-eps) t + eps with t ~ U(0,1), one per sequence (LLaDA, algorithm 1).

    The batch is stratified as in `sample_timesteps`. t is clipped into `band`; 1 - p is
    `lowest_inverse` or more.
    """
    return _mask_ratio(draws.timesteps(generator, batch, device), band, lowest_inverse)


def noise(
    tokens_BL: torch.Tensor,
    ratio: torch.Tensor,
    maskable_BL: torch.Tensor,
    mask_token_id: int,
    *,
    generator: Random = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Replaces each maskable token by the mask with its probability: (noisy_BL, masked_BL).

    `ratio` is [B], one per row, or [B, 1] or [B, L].
    """
    uniform_BL = draws.uniform(generator, tokens_BL)
    masked_BL = (uniform_BL < (ratio[:, None] if ratio.ndim == 1 else ratio)) & maskable_BL
    return tokens_BL.masked_fill(masked_BL, mask_token_id), masked_BL


def corrupt(
    tokens_BL: torch.Tensor,
    maskable_BL: torch.Tensor,
    mask_token_id: int,
    t: torch.Tensor | None = None,
    *,
    documents_BL: torch.Tensor | None = None,
    options: LossOptions = PLAIN,
    progress: float = 1.0,
    generator: Random = None,
) -> Noised:
    """`noise` at the mask ratio of t, with the options around it.

    `t` is that of `sample_timesteps`, sampled here if it is None. `progress` is the fraction of
    training that is done, for the curriculum.
    """
    if t is None:
        t = sample_timesteps(tokens_BL, documents_BL, generator=generator)
    ratio = _mask_ratio(t, options.band, EPS if options.complementary else 0.0)
    divisor = ratio
    if options.curriculum is not None:
        positions_BL = _positions(tokens_BL, documents_BL)
        ratio, divisor = apply_curriculum(ratio, positions_BL, options.curriculum, progress)
    noisy_BL, masked_BL = noise(tokens_BL, ratio, maskable_BL, mask_token_id, generator=generator)
    noised = Noised(tokens_BL, noisy_BL, masked_BL, ratio, divisor, 1)
    return _add_inverse(noised, maskable_BL, mask_token_id) if options.complementary else noised


def apply_curriculum(
    ratio: torch.Tensor, positions_BL: torch.Tensor, curriculum: Curriculum, progress: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """(probability of being masked, divisor of the loss) by position, as the curriculum has them.

    Inside the original context a token is masked with p, beyond it with q = 1 - (1 - p)^(1 + s),
    which is p at s = 0. A masked token's loss is divided by q / (dq/dp) in place of p, where
    dq/dp = (1 + s) (1 - p)^s. Any schedule per position that rises from 0 to 1 gives a bound of
    the likelihood with the weight (dq/dp) / q (Shi et al., arXiv:2406.04329, on schedules that
    differ between tokens). So the loss bounds -log p(text) for every s, and s only decides the
    order in which tokens are revealed: far ones later.
    """
    excess = curriculum.strength_at(progress)
    if excess == 0.0:
        return ratio, ratio
    far_BL = positions_BL >= curriculum.original_context
    further = 1 - (1 - ratio) ** (1 + excess)
    # At p = 1 the slope and the weight of the loss are 0: the divisor is large, but finite.
    slope = ((1 + excess) * (1 - ratio) ** excess).clamp(min=torch.finfo(ratio.dtype).tiny)
    return torch.where(far_BL, further, ratio), torch.where(far_BL, further / slope, ratio)


def loss_by_ratio(
    loss_BL: torch.Tensor, masked_BL: torch.Tensor, ratio: torch.Tensor, *, buckets: int = 10
) -> torch.Tensor:
    """Sums of the masked tokens' losses, and their counts, by mask ratio: fp64 [2, buckets].

    Bucket n holds the ratios from n / buckets to below (n + 1) / buckets, the last one 1 as well.
    Both rows add up over batches and processes; their quotient is the mean loss at that ratio.
    """
    ratio_N = ratio.expand_as(loss_BL)[masked_BL].double()
    bucket_N = (ratio_N * buckets).long().clamp(max=buckets - 1)
    zeros = torch.zeros(buckets, dtype=torch.float64, device=loss_BL.device)
    sums = zeros.index_add(0, bucket_N, loss_BL[masked_BL].detach().double())
    return torch.stack((sums, zeros.index_add(0, bucket_N, torch.ones_like(ratio_N))))


def _mask_ratio(t: torch.Tensor, band: tuple[float, float], lowest_inverse: float) -> torch.Tensor:
    """p = (1 - eps) t + eps: above 0, because a loss is divided by it."""
    return (1 - EPS - lowest_inverse) * t.clamp(*band) + EPS


def _by_document(t_B1: torch.Tensor, documents_BL: torch.Tensor) -> torch.Tensor:
    """A t for each document of a row, (t + n / golden ratio) mod 1: however many, they lie apart.

    The first document has the row's own t, and each t the uniform marginal of t. The t of a
    document depends on its number in the row alone, not on the rows beside it.
    """
    later_BL = (documents_BL - 1).clamp(min=0).double()
    return ((t_B1.double() + later_BL * GOLDEN) % 1).to(t_B1.dtype)


def _add_inverse(noised: Noised, maskable_BL: torch.Tensor, mask_token_id: int) -> Noised:
    """Adds each row once more, with the inverse of its mask, whose ratio is 1 - p."""
    inverse_BL = maskable_BL & ~noised.masked_BL
    inverse_noisy_BL = noised.tokens_BL.masked_fill(inverse_BL, mask_token_id)
    ratio = torch.cat((noised.ratio, 1 - noised.ratio))
    return Noised(
        tokens_BL=noised.tokens_BL.repeat(2, 1),
        noisy_BL=torch.cat((noised.noisy_BL, inverse_noisy_BL)),
        masked_BL=torch.cat((noised.masked_BL, inverse_BL)),
        ratio=ratio,
        divisor=ratio,
        copies=2,
    )


def _positions(tokens_BL: torch.Tensor, documents_BL: torch.Tensor | None) -> torch.Tensor:
    """Position in the row, or in the document where rows are packed."""
    places_L = torch.arange(tokens_BL.shape[1], device=tokens_BL.device)
    if documents_BL is None:
        return places_L.expand_as(tokens_BL)
    starts_BL = torch.ones_like(documents_BL, dtype=torch.bool)
    starts_BL[:, 1:] = documents_BL[:, 1:] != documents_BL[:, :-1]
    return places_L - torch.where(starts_BL, places_L, 0).cummax(1).values
