"""Low-rank adapters (LoRA, arXiv:2106.09685) through peft, and the names of their files.

An adapter is injected into the model in place, so that the same `LLaDA` object computes with it.
`model.merging` merges adapters into their base.
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
    """Freezes the model and adds a trainable update to the layers `targets` of every block.

    The embedding and head rows of `new_tokens` are trained too and stored with the adapter.
    """
    # A pattern and not peft's list of names: the head is called `ff_out` too, and must not match.
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
    """The rows to train of each matrix, by peft's name for it; a tied head is the embedding."""
    if not tokens:
        return None
    names = ["wte"] if model.config.weight_tying else ["wte", "transformer.ff_out"]
    return {name: list(tokens) for name in names}


def is_adapter(path: Path) -> bool:
    """Whether the directory holds an adapter and not a full model."""
    return (path / CONFIG).exists()
