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
