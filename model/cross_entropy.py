"""Cross entropy of hidden states against a large vocabulary, without the logits.

The head's matrix is walked in slices of the vocabulary, with the running softmax of FlashAttention
(arXiv:2205.14135, section 3.1) in place of a table of logits. Which positions are scored and how
their losses are weighed is the caller's. Shapes: N positions, D model width, V vocabulary, C slice.
"""

import math
from collections.abc import Iterator

import torch
from torch.autograd.function import once_differentiable

from model.projection import wide_logits

SLICE_BYTES = {"cpu": 8 * 2**20}
SLICE_BYTES_ELSEWHERE = 256 * 2**20
ALIGNED = 128  # a GPU multiplies rows that are not a multiple of 16 bytes at half the speed


def cross_entropy(
    hidden_ND: torch.Tensor,
    weight_VD: torch.Tensor,
    targets_N: torch.Tensor,
    *,
    z_loss: float = 0.0,
    temperature: float = 1.0,
    slice_bytes: int | None = None,
) -> torch.Tensor:
    """-log softmax(a)[target] + z_loss * log(sum exp(a))^2 of each position [N], fp32 at least.

    The logits are a = W h / temperature. Factors are in the inputs' dtype, or in autocast's; their
    products and the softmax are in fp32 at least, never rounded to less (`wide_logits`). Holds at
    most `slice_bytes` of logits. The gradient of `hidden_ND` is made in the forward pass (it is
    linear in a position's coefficient); that of `weight_VD` recomputes the logits, and is neither
    made nor allocated when the weight is frozen. z-loss: PaLM (arXiv:2204.02311, section 5).
    """
    device = hidden_ND.device.type
    dtype = hidden_ND.dtype
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
    if slice_bytes is None:
        slice_bytes = SLICE_BYTES.get(device, SLICE_BYTES_ELSEWHERE)
    wide = torch.promote_types(dtype, torch.float32)
    scale = 1.0 / temperature
    rows = max(slice_bytes // (max(len(hidden_ND), 1) * wide.itemsize), 1)
    if rows > ALIGNED:
        rows -= rows % ALIGNED
    with torch.autocast(device, enabled=False):
        return _CrossEntropy.apply(
            hidden_ND, weight_VD, targets_N, z_loss, scale, dtype, rows, torch.is_grad_enabled()
        )


class _CrossEntropy(torch.autograd.Function):
    """One pass over the vocabulary forward, one more backward where the weight is trained."""

    @staticmethod
    def forward(ctx, hidden_ND, weight_VD, targets_N, z_loss, scale, dtype, rows, grad_enabled):
        states_ND = hidden_ND.to(dtype)
        trains_hidden, trains_weight = (grad_enabled and need for need in ctx.needs_input_grad[:2])
        total_N, target_N, mean_ND = _softmax(
            states_ND, weight_VD, targets_N, scale, rows, with_mean=trains_hidden
        )
        if trains_hidden:
            mean_ND.mul_((1 + 2 * z_loss * total_N)[:, None]).sub_(weight_VD[targets_N].to(dtype))
            mean_ND.mul_(scale)
        ctx.z_loss, ctx.scale, ctx.rows = z_loss, scale, rows
        ctx.dtypes = hidden_ND.dtype, weight_VD.dtype
        ctx.save_for_backward(
            mean_ND if trains_hidden else None,
            *((states_ND, weight_VD, targets_N, total_N) if trains_weight else (None,) * 4),
        )
        return total_N - target_N + z_loss * total_N.square()

    @staticmethod
    @once_differentiable
    def backward(ctx, coefficient_N):
        slope_ND, states_ND, weight_VD, targets_N, total_N = ctx.saved_tensors
        hidden_dtype, weight_dtype = ctx.dtypes
        of_hidden = of_weight = None
        if slope_ND is not None:
            of_hidden = (slope_ND * coefficient_N[:, None]).to(hidden_dtype)
        if weight_VD is not None:
            of_weight = torch.empty_like(weight_VD)
            coefficient_N = coefficient_N * ctx.scale
            slope_N = coefficient_N * (1 + 2 * ctx.z_loss * total_N)
            for part, rows_CD in _slices(weight_VD, ctx.rows, states_ND.dtype):
                chances_NC = _logits(states_ND, rows_CD, ctx.scale).sub_(total_N[:, None]).exp_()
                chances_NC.mul_(slope_N[:, None])
                of_weight[part] = chances_NC.to(states_ND.dtype).T @ states_ND
            at_target_ND = (states_ND * -coefficient_N[:, None]).to(weight_dtype)
            of_weight.index_add_(0, targets_N, at_target_ND)
        return of_hidden, of_weight, None, None, None, None, None, None


def _softmax(states_ND, weight_VD, targets_N, scale: float, rows: int, *, with_mean: bool):
    """log sum exp [N] of the logits, the target's logit [N], and the weight's mean row [N, D].

    The mean is under each position's softmax; None unless asked for.
    """
    wide = torch.promote_types(states_ND.dtype, torch.float32)
    top_N = states_ND.new_full((len(states_ND),), -math.inf, dtype=wide)
    sum_N, target_N = torch.zeros_like(top_N), torch.zeros_like(top_N)
    mean_ND = torch.zeros_like(states_ND, dtype=wide) if with_mean else None
    for part, rows_CD in _slices(weight_VD, rows, states_ND.dtype):
        logits_NC = _logits(states_ND, rows_CD, scale)
        index_N = targets_N - part.start
        here_N = (index_N >= 0) & (index_N < len(rows_CD))
        found_N = logits_NC.gather(1, index_N.clamp(0, len(rows_CD) - 1)[:, None])[:, 0]
        target_N = torch.where(here_N, found_N, target_N)
        new_top_N = torch.maximum(top_N, logits_NC.amax(1))
        shrink_N = (top_N - new_top_N).exp_()
        chances_NC = logits_NC.sub_(new_top_N[:, None]).exp_()
        sum_N.mul_(shrink_N).add_(chances_NC.sum(1))
        if mean_ND is not None:
            product_ND = chances_NC.to(states_ND.dtype) @ rows_CD
            mean_ND.mul_(shrink_N[:, None]).add_(product_ND)
        top_N = new_top_N
    if mean_ND is not None:
        mean_ND.div_(sum_N[:, None])
    return top_N + sum_N.log(), target_N, mean_ND


def _logits(states_ND: torch.Tensor, rows_CD: torch.Tensor, scale: float) -> torch.Tensor:
    """A slice of the logits, fp32 or wider, that may be written over."""
    logits_NC = wide_logits(states_ND, rows_CD)
    return logits_NC if scale == 1.0 else logits_NC.mul_(scale)


def _slices(
    weight_VD: torch.Tensor, rows: int, dtype: torch.dtype
) -> Iterator[tuple[slice, torch.Tensor]]:
    for start in range(0, len(weight_VD), rows):
        part = slice(start, start + rows)
        yield part, weight_VD[part].to(dtype)
