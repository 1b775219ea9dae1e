"""Low-rank adapters through peft: what is attached to a model, and what names its files have.

The adapter is injected into the model in place, so the same `LLaDA` object computes with it. The
arithmetic of merging is `model.merging`'s.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from peft import LoraConfig, PeftModel, get_peft_model

from model.llada import LLaDA

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
PREFIX = "base_model.model."


def attach(
    model: LLaDA, *, rank: int, alpha: float, dropout: float, targets: Sequence[str]
) -> PeftModel:
    """Freezes the model and gives the named layers of every block a trainable update.

    The pattern names layers within a block: the head, also called `ff_out`, is never meant.
    """
    pattern = rf".*\.blocks\.\d+\.({'|'.join(map(re.escape, targets))})"
    settings = LoraConfig(
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type]
        lora_dropout=dropout,
        target_modules=pattern,
    )
    return get_peft_model(model, settings)


def is_adapter(path: Path) -> bool:
    """Whether the directory holds an adapter, rather than a full model."""
    return (path / CONFIG).exists()
