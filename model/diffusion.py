"""The training losses of masked diffusion (LLaDA, arXiv:2502.09992; SMDM, arXiv:2410.18514).

Functions of tensors. `model.noising` has the noise and its options, `model.cross_entropy` the cross
entropy, `model.likelihood` the likelihood of an answer.
Shapes: B batch, L length, N masked positions.
"""

from dataclasses import dataclass

import torch

from model.cross_entropy import cross_entropy
from model.likelihood import log_likelihood, log_likelihoods, mask_counts
from model.llada import LLaDA
from model.noising import (
    EPS,
    PLAIN,
    Noised,
    corrupt,
    loss_by_ratio,
    noise,
    sample_mask_ratio,
    sample_timesteps,
)
from model.options import LossOptions, check
from model.training.draws import Random

__all__ = [
    "EPS",
    "Denoised",
    "LossOptions",
    "denoise",
    "log_likelihood",
    "log_likelihoods",
    "mask_counts",
    "masked_cross_entropy",
    "noise",
    "pretraining_loss",
    "sample_mask_ratio",
    "sft_loss",
]


@dataclass(frozen=True)
class Denoised:
    """Losses of a noisy batch, [B, L] or [2B, L] (complementary pairs), 0 where not masked."""

    weighted_BL: torch.Tensor
    """The cross entropies as the objective weighs them."""
    loss_BL: torch.Tensor
    """The cross entropies before that, without a gradient."""
    noised: Noised

    def mean_by_token(self, real_BL: torch.Tensor) -> torch.Tensor:
        """The sum of the weighted losses over all real tokens (LLaDA, equation 3)."""
        return self.weighted_BL.sum() / (self.noised.copies * real_BL.sum())

    def mean_by_answer(self, answer_BL: torch.Tensor) -> torch.Tensor:
        """The mean over the answers, each weighted sum by its own length (LLaDA, equation 5)."""
        lengths_B = answer_BL.repeat(self.noised.copies, 1).sum(1)
        return (self.weighted_BL.sum(1) / lengths_B).mean()

    def loss_by_ratio(self) -> torch.Tensor:
        """Sums and counts of the losses by mask ratio (`noising.loss_by_ratio`), for the log."""
        return loss_by_ratio(self.loss_BL, self.noised.masked_BL, self.noised.ratio)


def denoise(
    model: LLaDA,
    tokens_BL: torch.Tensor,
    maskable_BL: torch.Tensor,
    *,
    attention_mask_BL: torch.Tensor | None = None,
    documents_BL: torch.Tensor | None = None,
    options: LossOptions = PLAIN,
    progress: float = 1.0,
    generator: Random = None,
) -> Denoised:
    """LLaDA's algorithm 1 up to the mean, for which `Denoised` has equations 3 and 5.

    Packed rows (`documents_BL`, format in `model.attention`) see their own document alone and
    sample a t for each. `progress` is the fraction of training that is done, for the curriculum.
    """
    # 1. Sample t ~ U(0, 1) for each sequence.
    t = sample_timesteps(tokens_BL, documents_BL, generator=generator)

    # 2. Mask each maskable token with the probability p = (1 - eps) t + eps.
    noised = corrupt(
        tokens_BL,
        maskable_BL,
        model.config.mask_token_id,
        t,
        documents_BL=documents_BL,
        options=options,
        progress=progress,
        generator=generator,
    )

    # 3. Predict the masked tokens from the noisy sequence.
    loss_BL = masked_cross_entropy(
        model,
        noised.noisy_BL,
        noised.tokens_BL,
        noised.masked_BL,
        _repeat(attention_mask_BL, noised.copies),
        documents_BL=_repeat(documents_BL, noised.copies),
        z_loss=options.z_loss,
    )

    # 4. Weigh each token's loss by 1 / p.
    return Denoised(loss_BL / noised.divisor, loss_BL.detach(), noised)


def pretraining_loss(
    model: LLaDA,
    tokens_BL: torch.Tensor,
    real_BL: torch.Tensor,
    *,
    documents_BL: torch.Tensor | None = None,
    options: LossOptions = PLAIN,
    progress: float = 1.0,
    generator: Random = None,
) -> torch.Tensor:
    """Sum over masked tokens of CE / p, over all real tokens (LLaDA, equation 3).

    The arguments are those of `denoise`; rows that are not packed see their real tokens.
    """
    return denoise(
        model,
        tokens_BL,
        real_BL,
        attention_mask_BL=real_BL if documents_BL is None else None,
        documents_BL=documents_BL,
        options=options,
        progress=progress,
        generator=generator,
    ).mean_by_token(real_BL)


def sft_loss(
    model: LLaDA,
    tokens_BL: torch.Tensor,
    answer_BL: torch.Tensor,
    *,
    attention_mask_BL: torch.Tensor | None = None,
    options: LossOptions = PLAIN,
    generator: Random = None,
) -> torch.Tensor:
    """Sum over masked answer tokens of CE / p, by each answer's length (LLaDA, equation 5).

    `answer_BL` is True on the answer and on the EOS padding after it: the model learns to end.
    Raises ValueError for a curriculum, which is pretraining's.
    """
    curriculum = options.curriculum
    check("curriculum", curriculum, curriculum is None, "null: only pretraining has one")
    return denoise(
        model,
        tokens_BL,
        answer_BL,
        attention_mask_BL=attention_mask_BL,
        options=options,
        generator=generator,
    ).mean_by_answer(answer_BL)


def masked_cross_entropy(
    model: LLaDA,
    noisy_BL: torch.Tensor,
    tokens_BL: torch.Tensor,
    masked_BL: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    *,
    documents_BL: torch.Tensor | None = None,
    z_loss: float = 0.0,
    temperature: float = 1.0,
) -> torch.Tensor:
    """-log p(token | noisy) as [B, L], zero where not masked; the head sees masked positions.

    p is the softmax of the logits divided by `temperature`. Rows are whole sequences under
    `attention_mask`, or packed (`documents_BL`, see `model.attention`). `z_loss` is the weight of
    the squared log-normalizer, added to the loss. The logits are never held in memory.
    """
    # Before the passes: counting the masks waits for the GPU, which has little to do yet.
    places_N = masked_BL.flatten().nonzero()[:, 0]
    hidden_BLD = model.hidden(noisy_BL, attention_mask, documents_BL=documents_BL)
    hidden_ND = hidden_BLD.flatten(0, 1).index_select(0, places_N)
    targets_N = tokens_BL.flatten().index_select(0, places_N)
    loss_N = cross_entropy(
        hidden_ND, model.head_weight, targets_N, z_loss=z_loss, temperature=temperature
    )
    return loss_N.new_zeros(masked_BL.numel()).index_copy(0, places_N, loss_N).view_as(masked_BL)


def _repeat(rows_BL: torch.Tensor | None, copies: int) -> torch.Tensor | None:
    """The rows, and once more for the inverse masks where there are any."""
    return None if rows_BL is None else rows_BL.repeat(copies, 1)
