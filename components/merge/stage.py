"""Writes a full model from a base and what was trained on it, a weight file at a time.

Each updated weight is W + (alpha / r) B A, added in fp32 and rounded once. Only one weight file is
in memory; where every weight was trained, the trained model itself is the result.
"""

import shutil
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file
from tqdm import tqdm

from components import artifact
from components.artifact import Input, Output
from components.merge.config import MergeConfig
from model import checkpoint, lora


def run(
    config: MergeConfig, *, base: Input, adapter: Input, model: Output, metrics: Output
) -> None:
    """Merges `adapter`, a LoRA adapter or a fully trained model, into a copy of `base`."""
    updated = _merge(base, adapter, model) if lora.is_adapter(adapter) else _copy(adapter, model)
    for file in adapter.iterdir():
        if file.name.startswith(("tokenizer", "special_tokens", "chat_template", "added_tokens")):
            shutil.copyfile(file, model / file.name)
    (metrics / artifact.METRICS).write_text(f'{{"updated_tensors": {updated}}}\n')
    artifact.record(
        {"model": model, "metrics": metrics},
        stage="merge",
        config=config,
        inputs={"base": base, "adapter": adapter},
        summary={"updated_tensors": updated},
    )


def _merge(base: Path, adapter: Path, model: Path) -> int:
    updates = lora.updates(adapter)
    names = {name for _, name in checkpoint.tensor_names(base)}
    if unknown := sorted(updates.keys() - names):
        raise ValueError(f"{adapter}: updates {unknown[0]}, which {base} does not have")
    files = checkpoint.weight_files(base)
    for file in tqdm(files, desc="merge", unit="file", disable=None):
        tensors = {}
        with safe_open(file, framework="pt") as weights:
            for name in weights.keys():
                weight = weights.get_tensor(name)
                tensors[name] = lora.merge(weight, updates[name]) if name in updates else weight
        save_file(tensors, model / file.name, metadata={"format": "pt"})
    for name in ("config.json", checkpoint.INDEX):
        if (base / name).exists():
            shutil.copyfile(base / name, model / name)
    return len(updates)


def _copy(trained: Path, model: Path) -> int:
    files = checkpoint.weight_files(trained)
    for file in [*files, trained / "config.json", trained / checkpoint.INDEX]:
        if file.exists():
            shutil.copyfile(file, model / file.name)
    return sum(1 for _ in checkpoint.tensor_names(trained))
