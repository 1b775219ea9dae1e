"""A model with its adapters applied in memory, as the merge stage would have written it.

For whoever asks or measures an adapter without a merged copy of its base. That an adapter belongs
to the base is told by records where both have one, and always by names and shapes.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from components import artifact
from model import checkpoint, lora, merging
from model.llada import LLaDA
from model.tokenizer import load_tokenizer


def load(
    base: Path,
    adapters: Sequence[Path] = (),
    *,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
) -> tuple[LLaDA, PreTrainedTokenizerBase]:
    """The model at `base` with the adapters applied in turn, and the tokenizer it was trained with.

    Raises ValueError naming the adapter that is none, was trained on another base, or does not fit,
    and what `checkpoint.load` raises.
    """
    check(base, adapters)
    network = checkpoint.load(base, dtype=dtype, device=device)
    merging.apply(network, base, adapters)
    return network, load_tokenizer(tokenizer_directory(base, adapters))


def tokenizer_directory(base: Path, adapters: Sequence[Path]) -> Path:
    """Which directory has the tokenizer: the last adapter that brought its own, or the base."""
    own = [path for path in (base, *adapters) if (path / "tokenizer.json").exists()]
    return own[-1] if own else base


def check(base: Path, adapters: Sequence[Path]) -> None:
    """Raises ValueError naming the first adapter that is none or was trained on another base.

    By records: an adapter's own base is `base`, or it was merged from `base` and all of the
    adapters before it.
    """
    earlier: set[str] = set()
    for path in adapters:
        if not path.is_dir() or not lora.is_adapter(path):
            raise ValueError(
                f"adapter={str(path)!r}, allowed: a directory with {lora.CONFIG} and {lora.WEIGHTS}"
            )
        if not (base / artifact.RECORD).exists() or not (path / artifact.RECORD).exists():
            continue
        record = artifact.read(path)
        if not _is_of(record, _fingerprints(base), earlier):
            raise ValueError(
                f"adapter={str(path)!r}: was trained on base {_short(record['inputs'])}, "
                f"allowed: an adapter of {base} ({artifact.read(base)['fingerprint'][:12]})"
            )
        earlier.add(record["fingerprint"])


def _is_of(record: dict, bases: set[str], earlier: set[str]) -> bool:
    """Whether an adapter was trained on one of the bases, or on it with the earlier adapters."""
    if record["inputs"].get("base", {}).get("fingerprint") in bases:
        return True
    ancestors = {entry["fingerprint"] for entry in record["lineage"]}
    return bool(earlier) and earlier <= ancestors and bool(bases & ancestors)


def _fingerprints(base: Path) -> set[str]:
    """A base's own fingerprint; a release is also the model that was released."""
    record = artifact.read(base)
    model = record["inputs"].get("model", {}) if record["stage"] == "release" else {}
    return {record["fingerprint"], model.get("fingerprint", record["fingerprint"])}


def _short(inputs: dict) -> str:
    return inputs.get("base", {}).get("fingerprint", "unknown")[:12]
