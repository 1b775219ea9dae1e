"""Low-rank adapters through peft: attach, save, and merge into the base in fp32.

The adapter is injected into the model in place, so the same `LLaDA` object computes with it. The
arithmetic of merging is here; reading and writing whole model directories is the merge stage's.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file

from model.llada import LLaDA

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
PREFIX = "base_model.model."


def attach(
    model: LLaDA,
    *,
    rank: int,
    alpha: float,
    dropout: float,
    targets: Sequence[str],
    rslora: bool = False,
    dora: bool = False,
    new_tokens: Sequence[int] = (),
) -> PeftModel:
    """Freezes the model and gives the named layers of every block a trainable update.

    The embedding and head rows of `new_tokens` are trained and stored with the adapter.

    The pattern names layers within a block: the head, also called `ff_out`, is never meant.
    """
    pattern = rf".*\.blocks\.\d+\.({'|'.join(map(re.escape, targets))})"
    settings = LoraConfig(
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type]
        lora_dropout=dropout,
        target_modules=pattern,
        use_rslora=rslora,
        use_dora=dora,
        trainable_token_indices=_rows(model, new_tokens),
    )
    return get_peft_model(model, settings)


def _rows(model: LLaDA, tokens: Sequence[int]) -> dict[str, list[int]] | None:
    """peft's names of the matrices with rows to train; a tied head is the embedding."""
    if not tokens:
        return None
    names = ["wte"] if model.config.weight_tying else ["wte", "transformer.ff_out"]
    return {name: list(tokens) for name in names}


def is_adapter(path: Path) -> bool:
    """Whether the directory holds an adapter, rather than a full model."""
    return (path / CONFIG).exists()


def updates(path: Path) -> dict[str, torch.Tensor]:
    """(alpha / r) B A in fp32 by the name of the weight that it updates.

    Raises ValueError when a matrix lacks its partner or the adapter is not plain LoRA.
    """
    settings = json.loads((path / CONFIG).read_text())
    if settings.get("use_dora") or settings.get("use_rslora") or settings.get("modules_to_save"):
        raise ValueError(f"{path}: allowed: a plain LoRA adapter (no DoRA, rsLoRA, saved modules)")
    matrices = load_file(path / WEIGHTS)
    scale = settings["lora_alpha"] / settings["r"]
    found = {}
    for name in sorted(matrices):
        layer, kind, rest = name.removeprefix(PREFIX).rpartition(".lora_A")
        if not kind:
            continue
        partner = f"{PREFIX}{layer}.lora_B{rest}"
        if partner not in matrices:
            raise ValueError(f"{path}: {name} has no partner {partner}")
        low, high = matrices[name].float(), matrices[partner].float()
        found[f"{layer}.weight"] = scale * (high @ low)
    if 2 * len(found) != len(matrices):
        raise ValueError(f"{path}: tensors that are not pairs of lora_A and lora_B")
    return found


def merge(weight: torch.Tensor, update: torch.Tensor) -> torch.Tensor:
    """W + update, added in fp32 and rounded once to W's dtype."""
    return (weight.float() + update).to(weight.dtype)
