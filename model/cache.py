"""Keys and values of one sequence window, preallocated, with keys stored rotated.

A pass over positions start..end overwrites those rows and attends to all of them: the prefix cache
passes everything from the active block on, the dual cache the active block alone (Fast-dLLM,
arXiv:2505.22618). What to pass is the sampler's business.
"""

import torch

from model.config import LLaDAConfig

Places = slice | torch.Tensor
"""Positions of a window that a pass runs over, from left to right; as a tensor, int64 [L]."""


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
        """Writes the rows of a layer at `places` and returns its whole keys and values."""
        self.keys[layer][:, :, places] = keys
        self.values[layer][:, :, places] = values
        return self.keys[layer], self.values[layer]

    def keep(self, rows: torch.Tensor) -> None:
        """Drops all rows of the batch but these."""
        self.keys, self.values = self.keys[:, rows], self.values[:, rows]
