"""Rotary position embedding (arXiv:2104.09864) on split halves, and YaRN (arXiv:2309.00071).

Angles are computed in fp32 and applied in fp32, whatever the model's dtype.
Shapes: L positions, K head size, R = K/2 pairs of dimensions.
"""

import math

import torch
from torch.autograd.function import once_differentiable

from model.config import LLaDAConfig


def frequencies(config: LLaDAConfig) -> torch.Tensor:
    """The angle by which each pair of dimensions turns from one position to the next: fp32 [R].

    In plain RoPE it is theta^(-2i/K). YaRN (section 3.2, "NTK-by-parts") keeps this angle for pairs
    that turn more than `beta_fast` times within the original context, divides it by the scale for
    pairs that turn less than `beta_slow` times, and blends linearly in between.
    `yarn_extrapolation_factor` f (of the authors' code) multiplies the share of the unscaled angle.
    """
    size = config.head_size
    # On the CPU, so that every device gets the same bits.
    exponents = torch.arange(0, size, 2, dtype=torch.float32, device="cpu") / size
    lengths = config.rope_theta**exponents
    plain = 1.0 / lengths
    if not config.yarn:
        return plain
    fast, slow = (
        _dimension_of(turns, config) for turns in (config.yarn_beta_fast, config.yarn_beta_slow)
    )
    low, high = max(math.floor(fast), 0), min(math.ceil(slow), size - 1)
    dims = torch.arange(size // 2, dtype=torch.float32, device="cpu")
    stretched = ((dims - low) / max(high - low, 1e-3)).clamp(0, 1)
    unscaled = (1 - stretched) * config.yarn_extrapolation_factor
    return plain * unscaled + 1.0 / (config.yarn_scale * lengths) * (1 - unscaled)


def _dimension_of(turns: float, config: LLaDAConfig) -> float:
    """The (fractional) index of the pair that makes `turns` full turns in the original context."""
    context = config.yarn_original_max_position_embeddings
    return (config.head_size * math.log(context / (turns * 2 * math.pi))) / (
        2 * math.log(config.rope_theta)
    )


def tables(config: LLaDAConfig, length: int, device: torch.device) -> tuple[torch.Tensor, ...]:
    """Cosines and sines of positions 0..length-1, each fp32 [L, R], times YaRN's attention factor.

    The factor is (0.1 ln s + 1) times `yarn_attn_factor` (section 3.4), and 1 for plain RoPE.
    """
    positions = torch.arange(length, dtype=torch.float32, device="cpu")
    angles = torch.outer(positions, frequencies(config))
    cosines, sines = angles.cos(), angles.sin()
    if config.yarn:
        factor = (0.1 * math.log(config.yarn_scale) + 1.0) * config.yarn_attn_factor
        cosines, sines = cosines * factor, sines * factor
    return cosines.to(device), sines.to(device)


def rotate(states: torch.Tensor, cosines: torch.Tensor, sines: torch.Tensor) -> torch.Tensor:
    """Rotates queries or keys [..., L, K] by their positions; computes in fp32, keeps their dtype.

    Dimensions i and i + K/2 form a pair (a, b), which becomes (a cos - b sin, b cos + a sin). The
    tables broadcast to [..., L, R].
    """
    if states.requires_grad:
        return _Rotation.apply(states, cosines, sines)
    return _rotated(states, cosines, sines)


class _Rotation(torch.autograd.Function):
    """The rotation; its gradient is the rotation by the opposite angle.

    Written by hand because `_rotated` writes into its result (`out=`), which autograd cannot
    follow.
    """

    @staticmethod
    def forward(ctx, states, cosines, sines):
        ctx.save_for_backward(cosines, sines)
        return _rotated(states, cosines, sines)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        cosines, sines = ctx.saved_tensors
        return _rotated(gradient, cosines, -sines), None, None


def _rotated(states: torch.Tensor, cosines: torch.Tensor, sines: torch.Tensor) -> torch.Tensor:
    """Two products and two `addcmul`, which read and write the states' own dtype and widen inside.

    Memory traffic is what this costs on a GPU: 14 bytes an element, where widening, rolling and
    multiplying the whole states moved 48 and took almost twice as long.
    """
    out = torch.empty_like(states)
    (first, second), (low, high) = states.chunk(2, -1), out.chunk(2, -1)
    torch.addcmul(first * cosines, second, sines, value=-1, out=low)
    torch.addcmul(second * cosines, first, sines, out=high)
    return out
