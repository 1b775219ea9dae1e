"""Linear layers, and the order in which a CPU multiplies few rows by a weight.

A pass over a block multiplies some dozen rows by every weight of the model, which comes from memory
each time. MKL takes a third less time for W x^T than for x W^T then (DECISIONS.md).
"""

import torch
import torch.nn.functional as F
from torch import nn

FEW = 256  # rows


def project(states: torch.Tensor, weight_ND: torch.Tensor) -> torch.Tensor:
    """States [..., D] times W^T: [..., N].

    For few rows on a CPU in inference mode the result is a transposed view. Training keeps out of
    that mode, so a pass without gradient that must equal one with it bit for bit does.
    """
    rows = states.numel() // states.shape[-1]
    if rows > FEW or states.device.type != "cpu" or not torch.is_inference_mode_enabled():
        return F.linear(states, weight_ND)
    return (weight_ND @ states.flatten(0, -2).T).T.unflatten(0, states.shape[:-1])


class Projection(nn.Linear):
    """A linear layer without bias."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, bias=False)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return project(states, self.weight)
