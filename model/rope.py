"""Rotary position embedding (arXiv:2104.09864) on split halves, and YaRN (arXiv:2309.00071).

Tables are made in fp32 and applied in fp32. Shapes: L positions, K head size, R = K/2 pairs.
"""

import math

import torch
from torch.autograd.function import once_differentiable

from model.config import LLaDAConfig


def frequencies(config: LLaDAConfig) -> torch.Tensor:
    """Rotation per position of each pair of dimensions: fp32 [R].

    Plain RoPE is theta^(-2i/K). YaRN (section 3.2, "NTK-by-parts") keeps the dimensions that turn
    more than `beta_fast` times within the original window, divides by the scale those that turn
    less than `beta_slow` times, and blends linearly in between. `yarn_extrapolation_factor` f
    below 1 (the authors' code) keeps only that part of the kept dimensions.
    """
    size = config.head_size
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
    kept = (1 - stretched) * config.yarn_extrapolation_factor
    return plain * kept + 1.0 / (config.yarn_scale * lengths) * (1 - kept)


def _dimension_of(turns: float, config: LLaDAConfig) -> float:
    """The (fractional) pair of dimensions that makes `turns` full turns in the original window."""
    window = config.yarn_original_max_position_embeddings
    return (config.head_size * math.log(window / (turns * 2 * math.pi))) / (
        2 * math.log(config.rope_theta)
    )


def tables(config: LLaDAConfig, length: int, device: torch.device) -> tuple[torch.Tensor, ...]:
    """Cosines and sines of positions 0..length-1, fp32 [L, R], times YaRN's factor.

    The factor is (0.1 ln s + 1) `yarn_attn_factor` (section 3.4) and 1 for plain RoPE.
    """
    positions = torch.arange(length, dtype=torch.float32, device="cpu")
    angles = torch.outer(positions, frequencies(config))
    cosines, sines = angles.cos(), angles.sin()
    if config.yarn:
        factor = (0.1 * math.log(config.yarn_scale) + 1.0) * config.yarn_attn_factor
        cosines, sines = cosines * factor, sines * factor
    return cosines.to(device), sines.to(device)


def rotate(states: torch.Tensor, cosines: torch.Tensor, sines: torch.Tensor) -> torch.Tensor:
    """Rotates queries or keys [..., L, K] by their positions, in fp32; returns their own dtype.

    The pair of dimensions (i, i + K/2), (a, b), becomes (a cos - b sin, b cos + a sin). The tables
    broadcast to [..., L, R].
    """
    if states.requires_grad:
        return _Rotation.apply(states, cosines, sines)
    return _rotated(states, cosines, sines)


class _Rotation(torch.autograd.Function):
    """Its gradient is the rotation the other way round."""

    @staticmethod
    def forward(ctx, states, cosines, sines):
        ctx.save_for_backward(cosines, sines)
        return _rotated(states, cosines, sines)

    @staticmethod
    @once_differentiable
    def backward(ctx, slope):
        cosines, sines = ctx.saved_tensors
        return _rotated(slope, cosines, -sines), None, None


def _rotated(states: torch.Tensor, cosines: torch.Tensor, sines: torch.Tensor) -> torch.Tensor:
    """Four kernels, which read and write the states' own dtype and widen in between."""
    out = torch.empty_like(states)
    (first, second), (low, high) = states.chunk(2, -1), out.chunk(2, -1)
    torch.addcmul(first * cosines, second, sines, value=-1, out=low)
    torch.addcmul(second * cosines, first, sines, out=high)
    return out
