"""A model with its adapters applied in memory, as the merge stage would have written it.

Every stage that takes a base takes the adapters that were trained on it so far, and no merged copy.
That an adapter belongs to the base is told by records where both have one, and always by names and
shapes.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from components import artifact, references
from model import checkpoint, lora, merging
from model.config import LLaDAConfig
from model.llada import LLaDA
from model.tokenizer import load_tokenizer

ADAPTER = "adapter_"  # the inputs of a record that are adapters: adapter_0, adapter_1, ...


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
    with references.opened(base) as folder:
        network = checkpoint.load(folder, dtype=dtype, device=device)
        merging.apply(network, folder, adapters)
    return network, load_tokenizer(tokenizer_directory(base, adapters))


def tokenizer_directory(base: Path, adapters: Sequence[Path]) -> Path:
    """Which directory has the tokenizer: the last adapter that brought its own, or the base."""
    own = [path for path in (base, *adapters) if (path / "tokenizer.json").exists()]
    return own[-1] if own else base


def config_directory(base: Path, adapters: Sequence[Path]) -> Path:
    """Which directory has the configuration: the last adapter that brought one, or the base."""
    own = [path for path in adapters if (path / checkpoint.CONFIG).exists()]
    return own[-1] if own else base


def read_config(base: Path, adapters: Sequence[Path]) -> LLaDAConfig:
    """The configuration of the model with its adapters; they may have extended its context."""
    return checkpoint.read_config(config_directory(base, adapters))


def named(adapters: Sequence[Path]) -> dict[str, Path]:
    """The adapters as inputs of a record, by their place."""
    return {f"{ADAPTER}{number}": path for number, path in enumerate(adapters)}


def chain(record: dict[str, Any]) -> list[str]:
    """Fingerprints of the base and the adapters that a stage took, by its record."""
    inputs = record["inputs"]
    root = inputs.get("base") or inputs.get("model")
    own = [facts for name, facts in inputs.items() if name.startswith(ADAPTER)]
    return [facts["fingerprint"] for facts in (root, *own) if facts]


def check(base: Path, adapters: Sequence[Path]) -> None:
    """Raises ValueError naming the first adapter that is none or was trained on another base.

    By records: an adapter was trained on `base` and the adapters before it, or on a merged copy of
    these.
    """
    if lora.is_adapter(base):
        raise ValueError(f"base={str(base)!r}: is an adapter, allowed: a whole model")
    earlier: list[str] = []
    for path in adapters:
        if not path.is_dir() or not lora.is_adapter(path):
            raise ValueError(
                f"adapter={str(path)!r}, allowed: a directory with {lora.CONFIG} and {lora.WEIGHTS}"
            )
        if not (base / artifact.RECORD).exists() or not (path / artifact.RECORD).exists():
            continue
        record, own = artifact.read(path), artifact.read(base)
        if "base" in record["inputs"] and not _is_of(record, own, earlier):
            raise ValueError(
                f"adapter={str(path)!r}: was trained on base {shown(chain(record))}, "
                f"allowed: an adapter of {base} ({shown([own['fingerprint'], *earlier])})"
            )
        earlier.append(record["fingerprint"])


def _is_of(record: dict[str, Any], base: dict[str, Any], earlier: list[str]) -> bool:
    """Whether an adapter was trained on the base, or on it with the earlier adapters."""
    first, *adapters = chain(record)
    for fingerprints in names(base):
        if [first, *adapters] == [*fingerprints, *earlier]:
            return True
    bases = {fingerprints[0] for fingerprints in names(base) if len(fingerprints) == 1}
    if first in bases and not adapters:
        return True
    # Or on a merged copy of all these.
    ancestors = {entry["fingerprint"] for entry in record["lineage"]}
    return bool(earlier) and not adapters and {*earlier} <= ancestors and bool(bases & ancestors)


def names(base: dict[str, Any]) -> list[list[str]]:
    """The chains of fingerprints that mean the same weights as a base, by its record.

    The first is its own. A release also is the model that was released, and a merged model the base
    and the adapters that it was merged from.
    """
    same = [[base["fingerprint"]]]
    if base["stage"] == "release" and "model" in base["inputs"]:
        same.append([base["inputs"]["model"]["fingerprint"]])
    if base["stage"] == "merge" and "trained" in base["inputs"]:
        same.append([*chain(base), base["inputs"]["trained"]["fingerprint"]])
    return same


def shown(fingerprints: Sequence[str]) -> str:
    """A chain in a message."""
    return " + ".join(fingerprint[:12] for fingerprint in fingerprints)
