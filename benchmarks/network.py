"""The models of the benchmarks."""

import torch

from model.config import LLaDAConfig
from model.llada import LLaDA

SMALL = LLaDAConfig(
    d_model=512,
    n_heads=8,
    n_layers=8,
    mlp_hidden_size=1536,
    vocab_size=32768,
    max_sequence_length=1024,
    mask_token_id=32767,
    eos_token_id=1,
    pad_token_id=1,
)
LARGE = LLaDAConfig()  # 8B


def network(device: str, small: LLaDAConfig = SMALL, large: LLaDAConfig = LARGE) -> LLaDA:
    """The small model in fp32, on a GPU the large one in bf16; random weights."""
    torch.manual_seed(0)
    if device == "cpu":
        return LLaDA(small).eval()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            return LLaDA(large).eval()
    finally:
        torch.set_default_dtype(torch.float32)
