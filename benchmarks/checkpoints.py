"""Checkpoints of the real 8B width with fewer layers, written shard by shard for the benchmarks.

The numbers are random and repeat from tensor to tensor; nothing here measures quality.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from model import safetensors_files
from model.config import LLaDAConfig
from model.llada import LLaDA


def write(path: Path, *, layers: int) -> int:
    """Writes an 8B-wide bf16 checkpoint of `layers` layers; returns the bytes of its weights."""
    path.mkdir()
    with torch.device("meta"):
        model = LLaDA(LLaDAConfig(n_layers=layers)).bfloat16()
    model.config.dtype = torch.bfloat16
    model.config.save_pretrained(path)
    state = model.state_dict()
    longest = max(tensor.numel() for tensor in state.values())
    numbers = torch.randn(1 << 24).mul_(0.02).to(torch.bfloat16).repeat(-(-longest // (1 << 24)))
    places: dict[str, str] = {}
    parts = _parts(list(state), layers)
    for count, names in enumerate(parts, 1):
        file = f"model-{count:05}-of-{len(parts):05}.safetensors"
        tensors = {
            name: numbers[: state[name].numel()].reshape(state[name].shape).clone()
            for name in names
        }
        save_file(tensors, path / file, metadata={"format": "pt"})
        places |= dict.fromkeys(names, file)
    total = sum(2 * tensor.numel() for tensor in state.values())
    index = {"metadata": {"total_size": total}, "weight_map": places}
    (path / safetensors_files.INDEX).write_text(json.dumps(index))
    return total


def _parts(names: list[str], layers: int) -> list[list[str]]:
    """Names of one shard each: the embedding, four layers at a time, the last norm and the head."""
    of_layer = {name: int(name.split(".")[3]) for name in names if ".blocks." in name}
    groups = [
        [name for name, layer in of_layer.items() if layer // 4 == group]
        for group in range(-(-layers // 4))
    ]
    rest = [name for name in names if name not in of_layer]
    return [rest[:1], *groups, rest[1:]]
