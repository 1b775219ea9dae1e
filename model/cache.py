"""Keys and values of one sequence window, preallocated, with keys stored rotated.

A pass over positions start..end overwrites those rows and attends to all of them: the prefix cache
passes everything from the active block on, the dual cache the active block alone (Fast-dLLM,
arXiv:2505.22618). What to pass is the sampler's business.
"""

import torch

from model.config import LLaDAConfig


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
        self, layer: int, start: int, keys: torch.Tensor, values: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Writes rows start.. of a layer and returns that layer's whole keys and values."""
        end = start + keys.shape[2]
        self.keys[layer, :, :, start:end] = keys
        self.values[layer, :, :, start:end] = values
        return self.keys[layer], self.values[layer]

    def keep(self, rows: torch.Tensor) -> None:
        """Drops all rows of the batch but these."""
        self.keys, self.values = self.keys[:, rows], self.values[:, rows]
