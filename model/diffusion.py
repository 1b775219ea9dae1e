"""The training losses of masked diffusion (LLaDA, arXiv:2502.09992; SMDM 2410.18514).

Functions of tensors. The noise is `model.noising`, the cross entropy `model.cross_entropy`, the
likelihood `model.likelihood`; the optimization loop and the data are elsewhere.
Shapes: B batch, L length, N masked positions.
"""

from collections.abc import Callable

import torch

from model.cross_entropy import cross_entropy
from model.likelihood import log_likelihood, log_likelihoods, mask_counts
from model.llada import LLaDA
from model.noising import EPS, PLAIN, Noised, corrupt, noise, sample_mask_ratio
from model.options import LossOptions
from model.training.draws import Random

__all__ = [
    "EPS",
    "LossOptions",
    "log_likelihood",
    "log_likelihoods",
    "mask_counts",
    "masked_cross_entropy",
    "noise",
    "pretraining_loss",
    "sample_mask_ratio",
    "sft_loss",
]

Observe = Callable[[torch.Tensor, Noised], object]


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
    `attention_mask`, or packed (`documents_BL`, see `model.attention`). `z_loss` adds that much of
    the squared log-normalizer. No logits are held.
    """
    # Before the passes: to count the masks is to wait for the GPU, which has little to do yet.
    places_N = masked_BL.flatten().nonzero()[:, 0]
    hidden_BLD = model.hidden(noisy_BL, attention_mask, documents_BL=documents_BL)
    hidden_ND = hidden_BLD.flatten(0, 1).index_select(0, places_N)
    targets_N = tokens_BL.flatten().index_select(0, places_N)
    loss_N = cross_entropy(
        hidden_ND, model.head_weight, targets_N, z_loss=z_loss, temperature=temperature
    )
    return loss_N.new_zeros(masked_BL.numel()).index_copy(0, places_N, loss_N).view_as(masked_BL)


def pretraining_loss(
    model: LLaDA,
    tokens_BL: torch.Tensor,
    real_BL: torch.Tensor,
    *,
    documents_BL: torch.Tensor | None = None,
    options: LossOptions = PLAIN,
    progress: float = 1.0,
    observe: Observe | None = None,
    generator: Random = None,
) -> torch.Tensor:
    """Sum over masked tokens of CE / p, over all real tokens (LLaDA, equation 3).

    Packed rows (`documents_BL`, format in `model.attention`) see their own document alone and draw
    one mask ratio per document. `progress` is the fraction of training that is done, for the
    curriculum. `observe` gets the unweighted losses [B, L] and the noise, for
    `noising.loss_by_ratio`.
    """
    noised = corrupt(
        tokens_BL,
        real_BL,
        model.config.mask_token_id,
        documents_BL=documents_BL,
        options=options,
        progress=progress,
        generator=generator,
    )
    seen_BL = real_BL if documents_BL is None else None
    loss_BL = _losses(model, noised, seen_BL, documents_BL, options, observe)
    return (loss_BL / noised.divisor).sum() / (noised.copies * real_BL.sum())


def sft_loss(
    model: LLaDA,
    tokens_BL: torch.Tensor,
    answer_BL: torch.Tensor,
    *,
    attention_mask_BL: torch.Tensor | None = None,
    options: LossOptions = PLAIN,
    observe: Observe | None = None,
    generator: Random = None,
) -> torch.Tensor:
    """Sum over masked answer tokens of CE / p, by each answer's own length (LLaDA, equation 5).

    `answer_BL` is True on the answer and on the EOS padding after it: the model learns to end.
    The options are those of `pretraining_loss`, without a curriculum.
    """
    if options.curriculum is not None:
        raise ValueError("curriculum in the loss of answers, allowed: in pretraining")
    noised = corrupt(
        tokens_BL, answer_BL, model.config.mask_token_id, options=options, generator=generator
    )
    loss_BL = _losses(model, noised, attention_mask_BL, None, options, observe)
    lengths_B = answer_BL.repeat(noised.copies, 1).sum(1)
    return ((loss_BL / noised.divisor).sum(1) / lengths_B).mean()


def _losses(model, noised: Noised, seen_BL, documents_BL, options: LossOptions, observe):
    """Cross entropies [B, L] of a noisy batch, whose inverse masks repeat the rows."""
    repeated = [
        rows if rows is None else rows.repeat(noised.copies, 1) for rows in (seen_BL, documents_BL)
    ]
    loss_BL = masked_cross_entropy(
        model,
        noised.noisy_BL,
        noised.tokens_BL,
        noised.masked_BL,
        repeated[0],
        documents_BL=repeated[1],
        z_loss=options.z_loss,
    )
    if observe is not None:
        observe(loss_BL.detach(), noised)
    return loss_BL
