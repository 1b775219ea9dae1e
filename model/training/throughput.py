"""How much of a GPU training uses: model FLOPs per token and peak memory.

FLOPs are counted as in PaLM (arXiv:2204.02311, appendix B): those that the mathematics needs,
without recomputation. The peaks are the vendors' dense bf16 figures.
"""

import resource

import torch

from model.llada import LLaDA

PEAKS = {
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "B200": 2250e12,
}


def flops_per_token(model: LLaDA, length: float) -> float:
    """FLOPs of one token's forward and backward pass in sequences of `length`.

    Frozen weights need no gradient of their own: 4 instead of 6 per weight. The head sees masked
    positions only, half of them in the mean.
    """
    config = model.config
    head = config.embedding_size * config.d_model / 2
    blocks = model.model["transformer"]["blocks"]
    weights = [(_size(p), p.requires_grad) for p in blocks.parameters() if p.ndim > 1]
    trained = sum(size for size, is_trained in weights if is_trained)
    frozen = sum(size for size, is_trained in weights if not is_trained)
    rate = 4 if frozen else 6
    attention = 12 * config.n_layers * config.d_model * length
    return 6 * trained + 4 * frozen + rate * head + attention


def _size(weight: torch.Tensor) -> int:
    """Elements of a weight; bitsandbytes packs two of them into a byte."""
    return weight.numel() if weight.is_floating_point() else 2 * weight.numel()


def peak_flops(device: torch.device) -> float | None:
    """The device's dense bf16 FLOPs per second, or None for a device that PEAKS does not list."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in PEAKS.items() if part in name), None)


def peak_memory(device: torch.device) -> int:
    """Most bytes so far: allocated by torch on a GPU, or else resident in the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
