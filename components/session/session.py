"""What the training stages share: opening a base, training with checkpoints, saving, recording.

The loop is `model.training.loop`, the losses are the model's; a stage says which data meet which
loss.
"""

import dataclasses
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from peft import PeftModel
from transformers import PreTrainedTokenizerBase

from components import artifact
from components.session.checkpoints import Checkpoints
from components.session.metrics import MetricsLog
from model import checkpoint, lora, noising, quantisation
from model.llada import LLaDA
from model.options import check
from model.tokenizer import load_tokenizer, new_token_ids
from model.training import optimizer
from model.training.config import Checkpointed, Optimization

# Beginnings of the variables by which accelerate and its plugins are configured from outside.
ACCELERATE = ("ACCELERATE_", "FSDP_", "MEGATRON_LM_", "PARALLELISM_CONFIG_", "DEEPSPEED_")
BUCKETS = 10
Fit = Callable[..., None]


class LossByRatio:
    """The loss by mask ratio since the last step's record, which its mean hides.

    Of several processes the first one's share, a fair sample, is what is logged.
    """

    def __init__(self) -> None:
        self.sums: torch.Tensor | None = None
        self.counts: torch.Tensor | None = None

    def observe(self, loss_BL: torch.Tensor, noised: noising.Noised) -> None:
        """Adds a micro-batch that is trained on; validation is not."""
        if not torch.is_grad_enabled():
            return
        sums, counts = noising.loss_by_ratio(
            loss_BL, noised.masked_BL, noised.ratio, buckets=BUCKETS
        )
        self.sums = sums if self.sums is None else self.sums + sums
        self.counts = counts if self.counts is None else self.counts + counts

    def take(self) -> dict[str, dict[str, float]]:
        """The mean loss of a masked token by the lower end of its bucket, and starts anew."""
        assert self.sums is not None and self.counts is not None
        pairs = zip(self.sums.tolist(), self.counts.tolist(), strict=True)
        means = {
            f"{number / BUCKETS:.1f}": total / count
            for number, (total, count) in enumerate(pairs)
            if count
        }
        self.sums = self.counts = None
        return {"loss_by_ratio": means}


def check_context(base: Path, name: str, length: int, context: int | None = None) -> None:
    """Raises ValueError naming the field unless so many tokens fit: before anything is loaded.

    `context` is the longest sequence of the trained model, the base's own if it is None.
    """
    longest = context or checkpoint.read_config(base).max_sequence_length
    check(name, length, length <= longest, f"up to {longest}, the model's context")


def open_base(
    base: Path,
    config: Optimization,
    *,
    context: int | None = None,
    new_tokens: bool = True,
) -> tuple[LLaDA, PeftModel | None, PreTrainedTokenizerBase]:
    """The model with what will be trained on it, its adapter if there is one, and its tokenizer.

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
        stored = checkpoint.read_config(base).dtype
        dtype = stored if isinstance(stored, torch.dtype) else dtype
    model = checkpoint.load(base, dtype=dtype, device=optimizer.device_of(accelerator))
    if context is not None:
        model.config.extend(context)
    model.checkpoint_activations = config.activation_checkpointing
    tokenizer = load_tokenizer(base)
    if config.lora is None:
        return model, None, tokenizer
    adapter = config.lora
    if adapter.quantized:
        quantisation.quantize(model, optimizer.device_of(accelerator))
    wrapped = lora.attach(
        model,
        rank=adapter.rank,
        alpha=adapter.alpha,
        dropout=adapter.dropout,
        targets=adapter.targets,
        rslora=adapter.rslora,
        dora=adapter.dora,
        new_tokens=new_token_ids(tokenizer) if new_tokens and adapter.new_tokens else (),
    )
    return model, wrapped, tokenizer


def _forget_environment() -> None:
    """Accelerate reads what it is not told, and some of what it is told, from these variables."""
    for name in list(os.environ):
        if name.startswith(ACCELERATE):
            del os.environ[name]


def train_and_record(
    stage: str,
    config: Checkpointed,
    opened: tuple[LLaDA, PeftModel | None, PreTrainedTokenizerBase],
    fit: Fit,
    *,
    watch: Callable[[], dict[str, Any]] = dict,
    inputs: Mapping[str, Path],
    trained: Path,
    metrics: Path,
    summary: Mapping[str, Any],
) -> None:
    """Trains, from the newest checkpoint where there is one, saves and records both outputs.

    `fit` is a loop that lacks only its log, checkpoints and snapshot: `train.fit` with its model,
    feed, loss and settings, or another. `watch` adds to each step's record.
    """
    model, wrapped, tokenizer = opened
    checkpoints = snapshot = None
    if config.checkpoint_uri is not None:
        checkpoints = Checkpoints(stage, config, inputs)
        snapshot = checkpoints.latest()
    with MetricsLog(
        metrics,
        stage=stage,
        total=config.steps,
        config=dataclasses.asdict(config),
        records=checkpoints.records if checkpoints else (),
        wandb_id=checkpoints.wandb if checkpoints else None,
    ) as log:
        if checkpoints:
            checkpoints.records, checkpoints.wandb = log.records, log.wandb_id
        fit(lambda record: log({**record, **watch()}), checkpoints=checkpoints, snapshot=snapshot)
    save_trained(model, wrapped, tokenizer, trained)
    if PartialState().is_main_process:
        artifact.record(
            {"trained": trained, "metrics": metrics},
            stage=stage,
            config=config,
            inputs=inputs,
            summary={**log.summary(), **summary},
        )
    PartialState().wait_for_everyone()
    PartialState().destroy_process_group()


def save_trained(
    model: LLaDA, adapter: PeftModel | None, tokenizer: PreTrainedTokenizerBase, path: Path
) -> None:
    """Writes the adapter alone, or the whole model where every weight was trained.

    Every process must call it: sharded weights are gathered, the first process writes.
    """
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


def _save_adapter(adapter: PeftModel, state: dict[str, torch.Tensor], path: Path) -> None:
    """Writes the adapter without the empty card that peft adds, or changes where there is one."""
    with tempfile.TemporaryDirectory(dir=path, prefix=".draft-") as folder:
        adapter.save_pretrained(folder, state_dict=state)
        for file in Path(folder).glob("adapter_*"):
            file.replace(path / file.name)


def _save_model(model: LLaDA, state: dict[str, torch.Tensor], path: Path) -> None:
    with torch.device("meta"):
        whole = LLaDA(model.config)
    whole.load_state_dict(state, assign=True)
    checkpoint.save(whole, path)


def to_device(tensors: dict[str, torch.Tensor], model: LLaDA) -> dict[str, torch.Tensor]:
    """A batch's tensors where the model is."""
    return {name: tensor.to(model.device) for name, tensor in tensors.items()}
