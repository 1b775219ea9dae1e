"""Keys and values of a decoding window, preallocated; keys are stored rotated.

A pass over some positions overwrites their keys and values and attends to those of the whole
window. With the prefix cache a pass covers the active block and all that follows it, with the dual
cache the active block alone (Fast-dLLM, arXiv:2505.22618, section 3.2). `model.window` decides.
Shapes: B batch, L window, K head size.
"""

import torch

from model.config import LLaDAConfig

Places = slice | torch.Tensor
"""The positions of the window that a pass runs over, ascending: a slice, or an int64 tensor."""


class KeyValueCache:
    """One key and one value tensor [B, H_kv, L, K] per layer."""

    def __init__(
        self,
        config: LLaDAConfig,
        batch: int,
        length: int,
        *,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        shape = (config.n_layers, batch, config.n_kv_heads, length, config.head_size)
        self.keys = torch.empty(shape, dtype=dtype, device=device)
        self.values = torch.empty(shape, dtype=dtype, device=device)

    def update(
        self, layer: int, places: Places, keys: torch.Tensor, values: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Overwrites a layer's keys and values at `places`; returns those of the whole window."""
        self.keys[layer][:, :, places] = keys
        self.values[layer][:, :, places] = values
        return self.keys[layer], self.values[layer]

    def select(self, rows_R: torch.Tensor) -> None:
        """Keeps these rows of the batch and drops the others."""
        self.keys, self.values = self.keys[:, rows_R], self.values[:, rows_R]
