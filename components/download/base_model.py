"""The weights of the base model: makes new, untrained ones, or checks fetched ones.

The stage runs this in a child process: the imports take 120 MB, which are free again before the
first row of a stream is read.
"""

from pathlib import Path

import torch

from components.download.config import Shape
from model import checkpoint
from model.config import LLaDAConfig
from model.llada import LLaDA

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


def make(shape: Shape, seed: int, mask_id: int, eos_id: int, path: Path) -> int:
    """Writes a new LLaDA to `path`; returns its number of parameters."""
    config = LLaDAConfig(
        d_model=shape.d_model,
        n_layers=shape.n_layers,
        n_heads=shape.n_heads,
        n_kv_heads=shape.n_kv_heads,
        mlp_hidden_size=shape.mlp_hidden_size,
        vocab_size=shape.vocabulary,
        max_sequence_length=shape.context,
        rope_theta=shape.rope_theta,
        weight_tying=shape.weight_tying,
        mask_token_id=mask_id,
        eos_token_id=eos_id,
        pad_token_id=eos_id,
    )
    torch.manual_seed(seed)
    torch.set_default_dtype(PRECISIONS[shape.precision])
    try:
        network = LLaDA(config)
    finally:
        torch.set_default_dtype(torch.float32)
    checkpoint.save(network, path)
    return network.num_parameters()


def check(path: Path) -> int:
    """Loads the model at `path`, every weight; returns its number of parameters.

    Raises what `checkpoint.load` raises.
    """
    stored = next(iter(checkpoint.inspect(path)[1].values())).dtype
    network = checkpoint.load(path, dtype=stored, check_finite=True)
    return network.num_parameters()
