"""Which model a path names: a model's own directory, or the run that made it.

    a model artifact   a directory that merge, release or download wrote, or full training
    upstream's files   config.json, safetensors and tokenizer.json, as GSAI-ML publishes LLaDA
    a run              what `make pipeline-run` wrote, also as RUNS/latest: its aligned model

Reads records alone; weights are the asking's business.
"""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from components import adapted, artifact
from model import lora
from model.config import CONFIG
from model.safetensors_files import weight_files

# How deep a run keeps its artifacts: those of the local runner, and a run laid out by hand.
PLACES = (f"artifacts/*/*/*/{artifact.RECORD}", f"*/{artifact.RECORD}")
TRAINING = ("pretrain", "sft", "dpo", "grpo")
ALIGNED = ("dpo", "grpo")
ALLOWED = (
    "the directory of a model artifact, of a model in upstream's format (config.json, safetensors, "
    "tokenizer.json) or of a run; `make pipeline-run` makes .runs/latest"
)
Record = dict[str, Any]


@dataclass(frozen=True)
class Located:
    """A model's directory and what is known of it."""

    path: Path
    fingerprint: str
    """Differs where the weights do."""
    sampling: Record = field(default_factory=dict)
    """The options with which its run sampled from it, by name; empty where none are known."""


def locate(path: Path) -> Located:
    """The model that `path` names. Raises ValueError naming the path and what is allowed."""
    if not path.is_dir():
        raise ValueError(f"MODEL={str(path)!r}: no such directory, allowed: {ALLOWED}")
    if (path / artifact.CLAIM).exists():
        raise ValueError(f"MODEL={str(path)!r}: a stage has not finished it, allowed: {ALLOWED}")
    if lora.is_adapter(path):
        raise ValueError(
            f"MODEL={str(path)!r}: is an adapter; allowed: its base as MODEL with --adapter {path}"
        )
    if (path / CONFIG).exists():
        return _model(path, [])
    records = [record for place in PLACES for record in sorted(path.glob(place))]
    if not records:
        raise ValueError(f"MODEL={str(path)!r}: holds neither, allowed: {ALLOWED}")
    directories = {record.parent: artifact.read(record.parent) for record in records}
    return _model(_aligned(path, directories), list(directories.values()))


def _model(path: Path, run: list[Record]) -> Located:
    if not (path / artifact.RECORD).exists():
        return Located(path, _stamp(path))
    record = artifact.read(path)
    return Located(path, record["fingerprint"], _sampling(record, run))


def _aligned(path: Path, directories: dict[Path, Record]) -> Path:
    """The one model of a run whose last training was DPO or GRPO; its release is the same model.

    A run without these stages is over when its report is there: then its last model is meant.
    """
    models = {
        directory: _last_training(record)
        for directory, record in directories.items()
        if (record["output"] == "model" and record["stage"] == "merge")
        or (record["output"] == "trained" and not lora.is_adapter(directory))
    }
    reports = [record for record in directories.values() if record["output"] == "report"]
    last = ALIGNED if not reports else (_last_training(reports[0]),)
    aligned = [directory for directory, stage in models.items() if stage in last]
    if len(aligned) == 1:
        return aligned[0]
    if aligned:
        names = ", ".join(str(directory) for directory in aligned)
        raise ValueError(
            f"MODEL={str(path)!r}: holds {len(aligned)} aligned models, name one: {names}"
        )
    others = ", ".join(str(directory) for directory in models)
    raise ValueError(
        f"MODEL={str(path)!r}: a run without an aligned model"
        f"{f'; allowed: one of its models, {others}' if others else ''}"
    )


def _last_training(record: Record) -> str | None:
    stages = [entry["stage"] for entry in record["lineage"] if entry["stage"] in TRAINING]
    return stages[-1] if stages else None


def _sampling(record: Record, run: list[Record]) -> Record:
    """The options of the evaluation of this model in its run, or else of GRPO's own sampling."""
    for other in run:
        if other["stage"] == "evaluate" and adapted.chain(other) in adapted.names(record):
            return other["config"]
    configs = [entry["config"] for entry in record["lineage"] if entry["stage"] == "grpo"]
    return configs[-1] if configs else {}


def _stamp(path: Path) -> str:
    """A fingerprint of a directory without a record, without reading its weights."""
    files = [path / CONFIG, *weight_files(path)]
    facts = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()
