"""The steps that all training stages share: loading a base, keeping progress, saving, recording.

A stage brings its data and its loss. The loop is `model.training.loop`, or GRPO's own.
"""

import contextlib
import dataclasses
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import PartialState
from peft import PeftModel
from transformers import PreTrainedTokenizerBase

from components import adapted, artifact
from components.session.checkpoints import Checkpoints
from components.session.metrics import MetricsLog
from components.session.sinks import History
from model import checkpoint, lora, quantisation
from model.llada import LLaDA
from model.options import check
from model.tokenizer import new_token_ids
from model.training import optimizer
from model.training.config import Optimization, Resumable
from model.training.protocols import Snapshot

# How the variables begin by which accelerate and its plugins are configured from outside.
ACCELERATE = ("ACCELERATE_", "FSDP_", "MEGATRON_LM_", "PARALLELISM_CONFIG_", "DEEPSPEED_")


class Session(NamedTuple):
    """A base that was opened for training."""

    model: LLaDA
    """The network, with the adapter in its layers if there is one."""
    adapter: PeftModel | None
    """The network as peft wraps it, or None where every weight is trained."""
    tokenizer: PreTrainedTokenizerBase


@dataclasses.dataclass(frozen=True)
class Progress:
    """A training run while it lasts: its log, its checkpoints, and the facts for its record."""

    stage: str
    config: Resumable
    inputs: Mapping[str, Path]
    metrics: Path
    log: MetricsLog
    checkpoints: Checkpoints | None
    """Where states are saved, or None where the configuration names no place."""
    snapshot: Snapshot | None
    """The newest state, from which the run goes on, or None at the start."""


def check_context(
    base: Path,
    name: str,
    length: int,
    context: int | None = None,
    *,
    adapters: Sequence[Path] = (),
) -> None:
    """Raises ValueError naming the field unless so many tokens fit, before anything is loaded.

    `context` is the longest sequence of the trained model, if None that of the base with its
    adapters.
    """
    longest = context or adapted.read_config(base, adapters).max_sequence_length
    check(name, length, length <= longest, f"up to {longest}, the model's context")


def open_base(
    base: Path,
    config: Optimization,
    *,
    adapters: Sequence[Path] = (),
    context: int | None = None,
    new_tokens: bool = True,
) -> Session:
    """The model of `base` with the configuration's adapter if there is one, and its tokenizer.

    `adapters` are those that were trained on `base` before; they become part of its weights, as
    merging them would have made them.

    Full training keeps fp32 weights, and so does fp32 arithmetic; in bf16 arithmetic the frozen
    base under an adapter keeps the precision in which it is stored. `context` is the longest
    sequence of the trained model, the base's own if it is None. Without `new_tokens` an adapter
    leaves their rows alone, whatever the configuration says: plain text never holds them.
    """
    _forget_environment()
    accelerator = optimizer.accelerate(config)
    torch.manual_seed(config.seed)
    dtype = torch.float32
    if config.lora is not None and accelerator.mixed_precision == "bf16":
        stored = adapted.read_config(base, adapters).dtype
        dtype = stored if isinstance(stored, torch.dtype) else dtype
    device = optimizer.device_of(accelerator)
    model, tokenizer = adapted.load(base, adapters, dtype=dtype, device=device)
    if context is not None:
        model.config.extend(context)
    model.checkpoint_activations = config.activation_checkpointing
    if config.lora is None:
        return Session(model, None, tokenizer)
    if config.lora.quantized:
        quantisation.quantize(model, device)
    adapter = lora.attach(
        model,
        rank=config.lora.rank,
        alpha=config.lora.alpha,
        dropout=config.lora.dropout,
        targets=config.lora.targets,
        rslora=config.lora.rslora,
        dora=config.lora.dora,
        new_tokens=new_token_ids(tokenizer) if new_tokens and config.lora.new_tokens else (),
    )
    return Session(model, adapter, tokenizer)


def _forget_environment() -> None:
    """Removes the variables from which accelerate takes settings, even some that it was given."""
    for name in list(os.environ):
        if name.startswith(ACCELERATE):
            del os.environ[name]


@contextlib.contextmanager
def keep_progress(
    stage: str, config: Resumable, *, inputs: Mapping[str, Path], metrics: Path
) -> Iterator[Progress]:
    """Opens the log of a training run, and its checkpoints where the configuration has a place.

    A run that was stopped before finds its newest snapshot, and its records in the log.
    """
    history, checkpoints, snapshot = History(), None, None
    if config.checkpoint_uri is not None:
        checkpoints = Checkpoints(stage, config, inputs, history)
        snapshot = checkpoints.latest()
    with MetricsLog(
        metrics,
        stage=stage,
        total=config.steps,
        config=dataclasses.asdict(config),
        history=history,
    ) as log:
        try:
            yield Progress(stage, config, inputs, metrics, log, checkpoints, snapshot)
        except Exception:
            _settle(checkpoints)
            raise
        _settle(checkpoints)


def _settle(checkpoints: Checkpoints | None) -> None:
    """What is on its way to storage arrives there, also when training fails or is told to stop."""
    if checkpoints is not None:
        checkpoints.settle()


def save_trained(session: Session, path: Path) -> None:
    """Writes the adapter alone, or the whole model where every weight was trained.

    Every process must call it: sharded weights are gathered, the first process writes.
    """
    model, adapter, tokenizer = session
    is_first, trained = PartialState().is_main_process, adapter or model
    state = {}
    for name, tensor in trained.state_dict().items():
        full = optimizer.full_tensor(tensor)
        if is_first:
            state[name] = full
    if not is_first:
        return
    if adapter is None:
        _save_model(model, state, path)
    else:
        _save_adapter(adapter, state, path)
        model.config.save_pretrained(path)
    tokenizer.save_pretrained(path)


def record(progress: Progress, trained: Path, *, summary: Mapping[str, Any]) -> None:
    """Records both outputs as complete, with the log's summary and the stage's own.

    Every process must call it, and last: it leaves the process group.
    """
    if PartialState().is_main_process:
        artifact.record(
            {"trained": trained, "metrics": progress.metrics},
            stage=progress.stage,
            config=progress.config,
            inputs=progress.inputs,
            summary={**progress.log.summary(), **summary},
        )
    PartialState().wait_for_everyone()
    PartialState().destroy_process_group()


def _save_adapter(adapter: PeftModel, state: dict[str, torch.Tensor], path: Path) -> None:
    """Writes the adapter without the empty card that peft adds (or changes an existing one)."""
    with tempfile.TemporaryDirectory(dir=path, prefix=".draft-") as folder:
        adapter.save_pretrained(folder, state_dict=state)
        for file in Path(folder).glob("adapter_*"):
            file.replace(path / file.name)


def _save_model(model: LLaDA, state: dict[str, torch.Tensor], path: Path) -> None:
    with torch.device("meta"):
        unsharded = LLaDA(model.config)
    unsharded.load_state_dict(state, assign=True)
    checkpoint.save(unsharded, path)


def to_device(tensors: dict[str, torch.Tensor], model: LLaDA) -> dict[str, torch.Tensor]:
    """A batch's tensors on the model's device."""
    return {name: tensor.to(model.device) for name, tensor in tensors.items()}
