"""What is masked and how its loss is weighed: LLaDA's noise, and the options around it.

The noise is LLaDA's (arXiv:2502.09992, algorithm 1). Options, each off by default: a mask-ratio
bandwidth, complementary pairs, and a curriculum for an extended context. The network and the cross
entropy are elsewhere. Shapes: B batch, L length, S sequences (documents, where rows are packed).
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
    """What the network sees."""
    masked_BL: torch.Tensor
    """Where a token was replaced by the mask."""
    ratio: torch.Tensor
    """Probability of being masked, [B, 1] or [B, L]."""
    divisor: torch.Tensor
    """What divides a masked token's loss, [B, 1] or [B, L]: the ratio, but for a curriculum."""
    copies: int
    """How often each sequence is there: 2 with complementary pairs, else 1."""


def sample_mask_ratio(
    batch: int,
    *,
    band: tuple[float, float] = PLAIN.band,
    lowest_inverse: float = 0.0,
    generator: Random = None,
    device: torch.device | str = "cpu",
) -> torch.Tensor:
    """p_B = (1-eps) t + eps with t ~ U(0,1), one per sequence (LLaDA, algorithm 1).

    The batch is stratified, t_i = (u + i/B) mod 1 (Kingma et al., arXiv:2107.00630, appendix I.1):
    each t keeps its uniform marginal and the batch's loss varies less. t is clipped into `band`;
    1 - p is `lowest_inverse` or more.
    """
    return _ratio(draws.timesteps(generator, batch, device), band, lowest_inverse)


def _ratio(t: torch.Tensor, band: tuple[float, float], lowest_inverse: float) -> torch.Tensor:
    return (1 - EPS - lowest_inverse) * t.clamp(*band) + EPS


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
    draw_BL = draws.uniform(generator, tokens_BL)
    masked_BL = (draw_BL < (ratio[:, None] if ratio.ndim == 1 else ratio)) & maskable_BL
    return tokens_BL.masked_fill(masked_BL, mask_token_id), masked_BL


def corrupt(
    tokens_BL: torch.Tensor,
    maskable_BL: torch.Tensor,
    mask_token_id: int,
    *,
    documents_BL: torch.Tensor | None = None,
    options: LossOptions = PLAIN,
    progress: float = 1.0,
    generator: Random = None,
) -> Noised:
    """Draws the noise of a training batch.

    Packed rows (`documents_BL`, see model.attention) draw one ratio per document: a document is the
    sequence of LLaDA's objective, and one ratio per row would tie its documents together.
    `progress` is the fraction of training that is done, for the curriculum.
    """
    t = draws.timesteps(generator, len(tokens_BL), tokens_BL.device)[:, None]
    if documents_BL is not None:
        t = _apart(t, documents_BL)
    ratio = _ratio(t, options.band, EPS if options.complementary else 0.0)
    ratio, divisor = _curriculum(ratio, tokens_BL, documents_BL, options.curriculum, progress)
    noisy_BL, masked_BL = noise(tokens_BL, ratio, maskable_BL, mask_token_id, generator=generator)
    if not options.complementary:
        return Noised(tokens_BL, noisy_BL, masked_BL, ratio, divisor, 1)
    inverse_BL = maskable_BL & ~masked_BL
    noisy_BL = torch.cat((noisy_BL, tokens_BL.masked_fill(inverse_BL, mask_token_id)))
    both = torch.cat((ratio, 1 - ratio))
    masked_BL = torch.cat((masked_BL, inverse_BL))
    return Noised(tokens_BL.repeat(2, 1), noisy_BL, masked_BL, both, both, 2)


def _curriculum(ratio, tokens_BL, documents_BL, curriculum: Curriculum | None, progress: float):
    """(probability of being masked, divisor of the loss) by position."""
    excess = curriculum.strength_at(progress) if curriculum else 0.0
    if curriculum is None or excess == 0.0:
        return ratio, ratio
    far_BL = _positions(tokens_BL, documents_BL) >= curriculum.original_context
    further = 1 - (1 - ratio) ** (1 + excess)
    slope = ((1 + excess) * (1 - ratio) ** excess).clamp(min=torch.finfo(ratio.dtype).tiny)
    return torch.where(far_BL, further, ratio), torch.where(far_BL, further / slope, ratio)


def _apart(t_B1: torch.Tensor, documents_BL: torch.Tensor) -> torch.Tensor:
    """A t for each document of a row, (t + n / golden ratio) mod 1: however many, they lie apart.

    The first document has the row's own t, and each t the uniform marginal of t. What a document
    draws depends on its number in the row alone, not on the rows beside it.
    """
    later_BL = (documents_BL - 1).clamp(min=0).double()
    return ((t_B1.double() + later_BL * GOLDEN) % 1).to(t_B1.dtype)


def _positions(tokens_BL: torch.Tensor, documents_BL: torch.Tensor | None) -> torch.Tensor:
    """Position in the row, or in the document where rows are packed."""
    places_L = torch.arange(tokens_BL.shape[1], device=tokens_BL.device)
    if documents_BL is None:
        return places_L.expand_as(tokens_BL)
    starts_BL = torch.ones_like(documents_BL, dtype=torch.bool)
    starts_BL[:, 1:] = documents_BL[:, 1:] != documents_BL[:, :-1]
    return places_L - torch.where(starts_BL, places_L, 0).cummax(1).values


def loss_by_ratio(
    loss_BL: torch.Tensor, masked_BL: torch.Tensor, ratio: torch.Tensor, *, buckets: int = 10
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sums of the masked tokens' losses, and their counts, by mask ratio: two fp64 [buckets].

    Bucket n holds the ratios from n / buckets to below (n + 1) / buckets, the last one 1 as well.
    Both add up over batches and processes; their quotient is the mean loss at that ratio.
    """
    ratio_N = ratio.expand_as(loss_BL)[masked_BL].double()
    bucket_N = (ratio_N * buckets).long().clamp(max=buckets - 1)
    zeros = torch.zeros(buckets, dtype=torch.float64, device=loss_BL.device)
    sums = zeros.index_add(0, bucket_N, loss_BL[masked_BL].detach().double())
    return sums, zeros.index_add(0, bucket_N, torch.ones_like(ratio_N))
