"""Settings of training: the optimizer, the checkpoints and the shared loop.

Standard library only, so that a bad value is refused before anything heavy is imported.
"""

import re
from dataclasses import dataclass
from typing import Literal

from model.options import Checked, Lora, check

S3 = re.compile(r"s3://[A-Za-z0-9][A-Za-z0-9._-]+(/.*)?")
"""A bucket, and optionally a key."""
SCHEME = re.compile(r"\w+:/")


def check_place(name: str, place: str | None) -> None:
    """Raises ValueError unless `place` is null, an absolute local path or a place in S3.

    A relative path would mean one directory on this machine and another in a container.
    """
    if place is not None:
        good = place.startswith("/") or S3.fullmatch(place) is not None
        check(name, place, good, "null, an absolute path or s3://BUCKET/KEY")


@dataclass(frozen=True, kw_only=True)
class Optimization(Checked):
    """AdamW with warmup and decay; the base of every training stage's configuration."""

    steps: int
    """Optimizer steps."""
    batch_size: int
    """Sequences in an optimizer step."""
    micro_batch_size: int
    """Sequences in one forward and backward pass; divides batch_size."""
    learning_rate: float
    """Peak learning rate."""
    warmup_steps: int = 0
    """Steps of linear warmup."""
    decay: Literal["cosine", "linear"] = "cosine"
    """How the learning rate falls after the warmup."""
    final_learning_rate: float = 0.1
    """Where the decay ends, as a fraction of the peak."""
    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW's decay rates of the two moments."""
    weight_decay: float = 0.0
    """AdamW's decoupled weight decay."""
    clip: float = 1.0
    """Largest norm of the gradient; larger ones are scaled down."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Arithmetic of the passes; auto is bf16 where the hardware multiplies it, else fp32."""
    activation_checkpointing: bool = False
    """Recompute each block's activations in the backward pass, to save memory."""
    lora: Lora | None = None
    """The adapter that is trained; null trains every weight."""
    seed: int = 0
    """Seed of the data order, the noise and the adapter's initial weights."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check("steps", self.steps, self.steps >= 1, "1 or more")
        check("batch_size", self.batch_size, self.batch_size >= 1, "1 or more")
        divides = self.micro_batch_size >= 1 and self.batch_size % self.micro_batch_size == 0
        check(
            "micro_batch_size",
            self.micro_batch_size,
            divides,
            f"a divisor of batch_size={self.batch_size}",
        )
        check("learning_rate", self.learning_rate, 0 < self.learning_rate < 1, "above 0, below 1")
        check("warmup_steps", self.warmup_steps, self.warmup_steps >= 0, "0 or more")
        final = self.final_learning_rate
        check("final_learning_rate", final, 0 <= final <= 1, "0 to 1")
        check("betas", self.betas, all(0 <= beta < 1 for beta in self.betas), "0 to below 1 each")
        check(
            "weight_decay", self.weight_decay, 0 <= self.weight_decay <= 10, "0 or more, up to 10"
        )
        check("clip", self.clip, self.clip > 0, "above 0")
        check("seed", self.seed, self.seed >= 0, "0 to 2^63 - 1")


@dataclass(frozen=True, kw_only=True)
class Resumable(Optimization):
    """A run in one process or several, which goes on after it was stopped: where its states are
    kept, and how often."""

    checkpoint_uri: str | None = None
    """Absolute path or s3://BUCKET/KEY of the checkpoints; null keeps none. Runs that differ in
    base, data or configuration have folders of their own below it, so that all stages may share
    one."""
    checkpoint_steps: int | None = None
    """Steps between checkpoints; null goes by the minutes alone."""
    checkpoint_minutes: float = 20.0
    """Longest time between checkpoints, in minutes."""
    checkpoint_keep: int = 2
    """How many of the newest checkpoints are kept."""
    parallel: Literal["replicate", "shard"] = "replicate"
    """Over several processes: a copy of the model in each (DDP), or a share (FSDP2)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_place("checkpoint_uri", self.checkpoint_uri)
        steps = self.checkpoint_steps
        check("checkpoint_steps", steps, steps is None or steps >= 1, "1 or more")
        minutes = self.checkpoint_minutes
        check("checkpoint_minutes", minutes, minutes > 0, "above 0")
        check("checkpoint_keep", self.checkpoint_keep, self.checkpoint_keep >= 1, "1 or more")
        quantized = self.lora is not None and self.lora.quantized
        fits = not (quantized and self.parallel == "shard")
        check("parallel", self.parallel, fits, "replicate, where lora.quantized is true")


@dataclass(frozen=True, kw_only=True)
class Training(Resumable):
    """A run of the shared loop, which also validates."""

    validation_examples: int = 0
    """Examples held out, from the end of the data; 0 trains on all and validates nothing."""
    validation_steps: int = 100
    """Steps between validations, each with the same noise."""

    def __post_init__(self) -> None:
        super().__post_init__()
        held = self.validation_examples
        check("validation_examples", held, held >= 0, "0 or more")
        check("validation_steps", self.validation_steps, self.validation_steps >= 1, "1 or more")
