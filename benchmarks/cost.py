"""The FLOPs and bytes that a piece of work needs, against those that the device could provide.

Model FLOPs are counted as in PaLM (arXiv:2204.02311, appendix B). The bytes are those that any way
of doing the work moves: every weight of the blocks and the head read once a pass, and the keys and
values that a pass attends to. Shapes: B requests, Q positions of a pass, L of the window, M masked.
"""

from dataclasses import dataclass
from functools import cache

import torch

from benchmarks.measure import Use, seconds
from model.llada import LLaDA
from model.training.throughput import peak_flops


@dataclass(frozen=True)
class Cost:
    """FLOPs and bytes of a piece of work."""

    flops: float
    bytes: float

    def use(self, spent: float, device: str) -> Use:
        """The use of the device by work that took `spent` seconds."""
        most = ceilings(device)
        return Use(self.flops / spent / most.peak, self.bytes / spent / most.copy)


@dataclass(frozen=True)
class Ceilings:
    """The speeds of a device."""

    peak: float
    """FLOP/s: the vendor's dense bf16 figure where it is known, else that of a large product."""
    product: float
    """FLOP/s of a large matrix product, measured."""
    copy: float
    """Bytes/s, read and written, of a large copy, measured."""

    @property
    def legend(self) -> str:
        """The speeds that count as 100%, in one sentence."""
        return (
            f"MFU is of {self.peak / 1e12:.4g} TFLOP/s (a large product reaches "
            f"{self.product / 1e12:.4g}), the bandwidth floor at {self.copy / 1e9:.4g} GB/s "
            "(what a large copy reads and writes)."
        )


def passes(model: LLaDA, requests: int, shapes: list[tuple[int, int, float]]) -> Cost:
    """The mean pass over B requests of these (Q, L, M)."""
    config, blocks = model.config, model.model["transformer"]["blocks"]
    weights = sum(weight.numel() for weight in blocks.parameters() if weight.ndim > 1)
    head = model.head_weight.numel()
    pairs = config.n_layers * config.d_model
    flops = cached = 0.0
    for queries, keys, scored in shapes:
        flops += 2 * weights * queries + 4 * pairs * queries * keys + 2 * head * scored
        cached += 2 * config.n_layers * config.n_kv_heads * config.head_size * keys
    size = model.head_weight.itemsize
    flops, cached = (requests * total / len(shapes) for total in (flops, cached))
    return Cost(flops, size * (weights + head + cached))


@cache
def ceilings(device: str) -> Ceilings:
    """Measures a GPU in bf16, once in a process."""
    left, right = (torch.randn(8192, 8192, device=device).bfloat16() for _ in range(2))
    source = torch.randint(255, (1 << 32,), device=device, dtype=torch.uint8)
    target = torch.empty_like(source)
    of_product, of_copy = seconds(
        lambda: left @ right, lambda: target.copy_(source), repeats=9, device=device
    )
    product = 2 * 8192**3 / of_product
    peak = peak_flops(torch.device(device)) or product
    return Ceilings(peak, product, 2 * source.numel() / of_copy)
