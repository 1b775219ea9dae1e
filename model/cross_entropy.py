"""Cross entropy of hidden states against a large vocabulary, without holding the logits.

The logits of N positions would be N x V numbers, several times the size of everything else in a
training step. So the head's matrix is walked in slices of the vocabulary with FlashAttention's
running softmax (arXiv:2205.14135, section 3.1), and a slice's logits are dropped after use. The
backward pass computes them again. Slices of the vocabulary and not of the positions, because each
row of the head's gradient is then written once.
Shapes: N positions, D model width, V vocabulary, C slice of the vocabulary.
"""

import math
from collections.abc import Iterator

import torch
from torch.autograd.function import once_differentiable

from model.projection import wide_logits

# Bytes of logits held at a time. On a CPU the extra memory of a training step was 618 to 700 MiB
# with larger slices, 581 to 602 with 8 MiB and 587 to 628 with 4; the seconds did not differ.
SLICE_BYTES = {"cpu": 8 * 2**20}
SLICE_BYTES_ELSEWHERE = 256 * 2**20
# A slice is a multiple of so many rows: a GPU takes slow kernels for rows of logits that are no
# multiple of 16 bytes (8.3 ms in place of 2.6 for the four products of a training step).
ALIGNED = 128


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

    The logits are a = W h / temperature. Factors are in the inputs' dtype, or in autocast's;
    products and softmax are in fp32 at least (`wide_logits`). Holds at most `slice_bytes` of
    logits. The gradient of `hidden_ND` is computed in the forward pass. That of `weight_VD`
    recomputes the logits, and is neither computed nor allocated when the weight is frozen.
    z-loss: PaLM (arXiv:2204.02311, section 5).
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
    # The factors are cast by hand, once. Within the function autocast would round the products too.
    with torch.autocast(device, enabled=False):
        return _CrossEntropy.apply(
            hidden_ND, weight_VD, targets_N, z_loss, scale, dtype, rows, torch.is_grad_enabled()
        )


class _CrossEntropy(torch.autograd.Function):
    """One pass over the vocabulary forward, and one more backward if the weight is trained.

    With p = softmax(a), s the scale (1 / temperature), lse = log(sum exp(a)) and c a position's
    coefficient (the gradient that arrives from above), the gradients are
        of h:  c s ((1 + 2 z lse) sum_v p_v W_v - W_target)
        of W:  row v: sum over positions of c s ((1 + 2 z lse) p_v - [v is the target]) h
    """

    @staticmethod
    def forward(ctx, hidden_ND, weight_VD, targets_N, z_loss, scale, dtype, rows, grad_enabled):
        states_ND = hidden_ND.to(dtype)
        # needs_input_grad alone is true in a no-grad pass as well.
        trains_hidden, trains_weight = (grad_enabled and need for need in ctx.needs_input_grad[:2])
        total_N, target_N, mean_ND = _softmax(
            states_ND, weight_VD, targets_N, scale, rows, with_mean=trains_hidden
        )
        if trains_hidden:
            # The gradient of h for c = 1: it is linear in c, which only the backward pass knows.
            # Computed here, where the mean row is at hand, it costs no second pass over the
            # vocabulary.
            mean_ND.mul_((1 + 2 * z_loss * total_N)[:, None]).sub_(weight_VD[targets_N].to(dtype))
            mean_ND.mul_(scale)
        ctx.z_loss, ctx.scale, ctx.rows = z_loss, scale, rows
        ctx.dtypes = hidden_ND.dtype, weight_VD.dtype
        # Saved are [N, D] and [N] tensors only, and for a frozen weight just the gradient of h.
        ctx.save_for_backward(
            mean_ND if trains_hidden else None,
            *((states_ND, weight_VD, targets_N, total_N) if trains_weight else (None,) * 4),
        )
        return total_N - target_N + z_loss * total_N.square()

    @staticmethod
    @once_differentiable
    def backward(ctx, coefficient_N):
        unit_ND, states_ND, weight_VD, targets_N, total_N = ctx.saved_tensors
        hidden_dtype, weight_dtype = ctx.dtypes
        hidden_gradient = weight_gradient = None
        if unit_ND is not None:
            hidden_gradient = (unit_ND * coefficient_N[:, None]).to(hidden_dtype)
        if weight_VD is not None:
            weight_gradient = torch.empty_like(weight_VD)
            coefficient_N = coefficient_N * ctx.scale
            softmax_weight_N = coefficient_N * (1 + 2 * ctx.z_loss * total_N)
            for part, rows_CD in _slices(weight_VD, ctx.rows, states_ND.dtype):
                # The logits again: total_N is their log-sum-exp, so exp gives probabilities.
                logits_NC = _logits(states_ND, rows_CD, ctx.scale)
                probabilities_NC = logits_NC.sub_(total_N[:, None]).exp_()
                probabilities_NC.mul_(softmax_weight_N[:, None])
                # Slices are disjoint, so each row of the gradient is written once and needs no sum.
                weight_gradient[part] = probabilities_NC.to(states_ND.dtype).T @ states_ND
            # After the slices, which overwrite. A target may occur several times, hence index_add_.
            at_target_ND = (states_ND * -coefficient_N[:, None]).to(weight_dtype)
            weight_gradient.index_add_(0, targets_N, at_target_ND)
        return hidden_gradient, weight_gradient, None, None, None, None, None, None


def _softmax(states_ND, weight_VD, targets_N, scale: float, rows: int, *, with_mean: bool):
    """log(sum exp) of each position's logits [N], its target's logit [N], and sum_v p_v W_v [N, D].

    The last is the mean row of the weight under each position's softmax; None without `with_mean`.
    """
    wide = torch.promote_types(states_ND.dtype, torch.float32)
    top_N = states_ND.new_full((len(states_ND),), -math.inf, dtype=wide)
    sum_N, target_N = torch.zeros_like(top_N), torch.zeros_like(top_N)
    mean_ND = torch.zeros_like(states_ND, dtype=wide) if with_mean else None
    for part, rows_CD in _slices(weight_VD, rows, states_ND.dtype):
        logits_NC = _logits(states_ND, rows_CD, scale)
        # Each target lies in one slice; the other slices gather an arbitrary logit and discard it.
        # Selecting the targets by a boolean index would make the CPU wait for the GPU.
        index_N = targets_N - part.start
        is_here_N = (index_N >= 0) & (index_N < len(rows_CD))
        logit_N = logits_NC.gather(1, index_N.clamp(0, len(rows_CD) - 1)[:, None])[:, 0]
        target_N = torch.where(is_here_N, logit_N, target_N)
        # Exponentials are relative to the largest logit so far, so that none overflows. When it
        # grows, the earlier sums shrink by the same factor.
        new_top_N = torch.maximum(top_N, logits_NC.amax(1))
        shrink_N = (top_N - new_top_N).exp_()
        exponentials_NC = logits_NC.sub_(new_top_N[:, None]).exp_()
        sum_N.mul_(shrink_N).add_(exponentials_NC.sum(1))
        if mean_ND is not None:
            product_ND = exponentials_NC.to(states_ND.dtype) @ rows_CD
            mean_ND.mul_(shrink_N[:, None]).add_(product_ND)
        top_N = new_top_N
    if mean_ND is not None:
        mean_ND.div_(sum_N[:, None])
    return top_N + sum_N.log(), target_N, mean_ND


def _logits(states_ND: torch.Tensor, rows_CD: torch.Tensor, scale: float) -> torch.Tensor:
    """A slice of the logits in fp32 or wider, which the caller may overwrite."""
    logits_NC = wide_logits(states_ND, rows_CD)
    return logits_NC if scale == 1.0 else logits_NC.mul_(scale)


def _slices(
    weight_VD: torch.Tensor, rows: int, dtype: torch.dtype
) -> Iterator[tuple[slice, torch.Tensor]]:
    """Slices of the vocabulary with their rows of the weight, cast one slice at a time."""
    for start in range(0, len(weight_VD), rows):
        part = slice(start, start + rows)
        yield part, weight_VD[part].to(dtype)
