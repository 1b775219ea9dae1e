"""A frozen base in 4 bits (QLoRA, arXiv:2305.14314) through bitsandbytes, where that works.

The blocks' linear layers become NormalFloat4 with doubly quantized scales; embedding, head and
norms keep their dtype. bitsandbytes is not a dependency: users of `lora.quantized` install it.
"""

import importlib
from types import ModuleType

import torch
from torch import nn

from model.llada import LLaDA


def quantize(model: LLaDA, device: torch.device) -> None:
    """Quantizes the blocks in place. Raises ValueError where bitsandbytes does not work."""
    library = _library(device)
    for block in model.model["transformer"]["blocks"]:
        for name, layer in block.named_children():
            if isinstance(layer, nn.Linear):
                setattr(block, name, _four_bits(library, layer, device))


def _four_bits(library: ModuleType, layer: nn.Linear, device: torch.device) -> nn.Module:
    quantized = library.nn.Linear4bit(
        layer.in_features,
        layer.out_features,
        bias=False,
        compute_dtype=torch.bfloat16,
        compress_statistics=True,
        quant_type="nf4",
    )
    quantized.weight = library.nn.Params4bit(
        layer.weight.data, requires_grad=False, compress_statistics=True, quant_type="nf4"
    )
    return quantized.to(device)


def _library(device: torch.device) -> ModuleType:
    """bitsandbytes, after a trial product on the device: an import alone proves nothing."""
    try:
        library = importlib.import_module("bitsandbytes")
        layer = nn.Linear(64, 64, bias=False)
        _four_bits(library, layer, device)(torch.ones(1, 64, device=device, dtype=torch.bfloat16))
    except (ImportError, RuntimeError, AttributeError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"lora.quantized=True, allowed: false, bitsandbytes does not work here: {reason}"
        ) from error
    return library
