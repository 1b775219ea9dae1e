"""Linear layers, the order in which a CPU multiplies few rows by a weight, and logits in fp32.

A pass over a block multiplies some dozen rows by every weight of the model, which comes from memory
each time. MKL takes a third less time for W x^T than for x W^T then (DECISIONS.md).
Shapes: N rows, D width, C columns.
"""

from collections.abc import Iterator
from contextlib import contextmanager

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


def wide_logits(states_ND: torch.Tensor, weight_CD: torch.Tensor) -> torch.Tensor:
    """States times W^T [N, C] in fp32 at least; half-precision factors are multiplied as they are.

    A product that is rounded to bf16 has steps of 1/16 between 8 and 16: log p of two tokens that
    compete there is off by 0.025 (standard deviation). Tensor cores sum in fp32 anyway, and give
    that sum at no cost where it is asked for. A tensor of its own, which may be written over.
    """
    if states_ND.dtype not in (torch.bfloat16, torch.float16):
        return states_ND @ weight_CD.T
    if states_ND.device.type == "cuda" and len(states_ND):
        return torch.mm(states_ND, weight_CD.T, out_dtype=torch.float32)
    with _bf16_products():
        return states_ND.float() @ weight_CD.float().T


@contextmanager
def _bf16_products() -> Iterator[None]:
    """A CPU may multiply fp32 factors as bf16 here, which is exact for those that come from it."""
    setting = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = setting.fp32_precision
    setting.fp32_precision = "bf16"
    try:
        yield
    finally:
        setting.fp32_precision = before


class Projection(nn.Linear):
    """A linear layer without bias."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, bias=False)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return project(states, self.weight)
