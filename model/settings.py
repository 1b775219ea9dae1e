"""Settings of training, and the check that names a bad field.

Standard library only, so that a bad value is refused before anything heavy is imported.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from model.checks import Checked, check, check_text

REWARDS = ("verified", "exact", "math", "code", "format", "equations", "overlong")
"""Names of the rewards in `model.rewards`."""
S3 = re.compile(r"s3://[A-Za-z0-9][A-Za-z0-9._-]+(/.*)?")
"""A bucket, and a key perhaps."""
HUB = re.compile(r"hf://[^/]+/[^/]+.*")
URL = re.compile(
    r"https?://([\w.-]+|\[[0-9a-fA-F:.]+\])(:(?P<port>\d{1,5}))?(/[!\"$->@-~]*)?", re.ASCII
)
SCHEME = re.compile(r"\w+:/")


def check_rewards(name: str, weights: Sequence[tuple[str, float]]) -> None:
    """Raises ValueError unless `weights` are (reward, weight) pairs: known, each once, finite."""
    names = [reward for reward, _ in weights]
    check(name, weights, bool(names), f"weights of some of {', '.join(REWARDS)}")
    for number, reward in enumerate(names):
        check(f"{name}[{number}][0]", reward, reward in REWARDS, ", ".join(REWARDS))
        check(f"{name}[{number}][0]", reward, names.count(reward) == 1, "each reward once")
        weight = weights[number][1]
        check(f"{name}[{number}][1]", weight, math.isfinite(weight), "a finite number")


def check_url(name: str, url: str) -> None:
    """Raises ValueError unless `url` is the base of an HTTP API; a password in it is not shown."""
    allowed = "a URL starting with http:// or https://, then a host, and perhaps port and path"
    check(name, url, url.startswith(("http://", "https://")), allowed)
    check(name, "...", "@" not in url.split("/")[2], "a URL without user or password")
    found = URL.fullmatch(url)
    good = found is not None and 1 <= int(found["port"] or 1) <= 65535
    check(name, url, good, allowed)


def check_place(name: str, place: str | None) -> None:
    """Raises ValueError unless something can be kept at `place`: a whole local path, or S3.

    What a relative path means differs between this machine and a container.
    """
    if place is not None:
        good = place.startswith("/") or S3.fullmatch(place) is not None
        check(name, place, good, "null, an absolute path or s3://BUCKET/KEY")


def check_source(name: str, location: str | None, *, hub: bool) -> None:
    """Raises ValueError for a place that nothing is read from; `hub` is whether hf:// is one."""
    if location is None:
        return
    good = bool(location.strip())
    if SCHEME.match(location):
        on_hub = hub and HUB.fullmatch(location) is not None
        good = on_hub or S3.fullmatch(location) is not None
    elsewhere = "hf://datasets/OWNER/NAME/PATH" if hub else "OWNER/NAME on the Hub"
    check(name, location, good, f"a path, s3://BUCKET/KEY or {elsewhere}")


@dataclass(frozen=True, kw_only=True)
class JudgeConfig(Checked):
    """A language model behind an OpenAI-compatible endpoint that scores the answers of a group."""

    url: str
    """Base URL of the endpoint, as in http://localhost:11434/v1; its key is JUDGE_API_KEY in the
    environment and nowhere else."""
    model: str
    """Name of the model at the endpoint."""
    rubric: str = "A better answer reaches a correct result by true and needed steps."
    """What makes an answer better than another, for the judge to go by."""
    weight: float = 1.0
    """Weight of the judge's score, 0 to 1, beside the other rewards."""
    timeout: float = 60.0
    """Seconds that one attempt may take."""
    retries: int = 3
    """Further attempts when the endpoint is down, busy or failing, at growing intervals."""
    concurrency: int = 8
    """Groups that are judged at the same time."""
    max_failed_share: float = 0.1
    """Share of failed calls, of all calls so far or of 20 if they are fewer, that ends the run."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_url("judge.url", self.url)
        check_text("judge.model", self.model, "a name")
        check_text("judge.rubric", self.rubric)
        check("judge.weight", self.weight, self.weight >= 0, "0 or more")
        check("judge.timeout", self.timeout, self.timeout > 0, "above 0")
        check("judge.retries", self.retries, 0 <= self.retries <= 20, "0 to 20")
        check(
            "judge.concurrency",
            self.concurrency,
            1 <= self.concurrency <= 1000,
            "1 or more, up to 1000",
        )
        share = self.max_failed_share
        check("judge.max_failed_share", share, 0 <= share <= 1, "0 to 1")


@dataclass(frozen=True, kw_only=True)
class Lora(Checked):
    """A low-rank adapter (arXiv:2106.09685): W + (alpha / rank) B A."""

    rank: int = 128
    """Rank of the update."""
    alpha: float = 256.0
    """Scale of the update, divided by the rank."""
    dropout: float = 0.05
    """Probability of dropping an input of the adapter in training."""
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "attn_out")
    """Names of the adapted linear layers within a block."""
    rslora: bool = False
    """Scale by alpha / sqrt(rank) (rsLoRA, arXiv:2312.03732)."""
    dora: bool = False
    """Train the columns' magnitudes apart from their directions (DoRA, arXiv:2402.09353)."""
    new_tokens: bool = True
    """Train the embedding and head rows of special tokens that the base's tokenizer lacked; never
    in pretraining, whose plain text does not hold them."""
    quantised: bool = False
    """Keep the frozen base in 4 bits (QLoRA, arXiv:2305.14314), where bitsandbytes works."""

    def __post_init__(self) -> None:
        super().__post_init__()
        layers = ("q_proj", "k_proj", "v_proj", "attn_out", "ff_proj", "up_proj", "ff_out")
        check("lora.rank", self.rank, self.rank >= 1, "1 or more")
        check("lora.alpha", self.alpha, self.alpha > 0, "above 0")
        check("lora.dropout", self.dropout, 0 <= self.dropout < 1, "0 to below 1")
        known = bool(self.targets) and set(self.targets) <= set(layers)
        check("lora.targets", self.targets, known, f"some of {', '.join(layers)}")


@dataclass(frozen=True, kw_only=True)
class Curriculum(Checked):
    """Masks positions beyond the original window more often, early in training.

    Inside the window a token is masked with p, beyond it with q = 1 - (1 - p)^(1 + s), which is p
    at s = 0. The loss of a masked token is weighed by (dq/dp) / q in place of 1 / p. Any schedule
    per position that rises from 0 to 1 gives a bound of the likelihood with that weight (Shi et
    al., arXiv:2406.04329, on schedules that differ between tokens), so for every s the
    loss bounds -log p(text): what differs is the order in which tokens are revealed, far ones
    later. s falls linearly from `strength` to 0; from `until` on the loss is the plain one.
    """

    window: int
    """Positions of the original context; later ones are masked more often."""
    strength: float = 2.0
    """s at the start: q = 1 - (1 - p)^3 at 2, which is 0.875 at p = 0.5."""
    until: float = 0.5
    """Fraction of training from which the objective is uniform."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check("curriculum.window", self.window, self.window >= 1, "1 or more")
        check(
            "curriculum.strength", self.strength, 0 <= self.strength <= 100, "0 or more, up to 100"
        )
        check("curriculum.until", self.until, 0 < self.until < 1, "above 0, below 1")

    def strength_at(self, progress: float) -> float:
        """s after the fraction `progress` of training."""
        check("progress", progress, 0 <= progress <= 1, "0 to 1")
        return self.strength * max(1 - progress / self.until, 0.0)


@dataclass(frozen=True, kw_only=True)
class LossOptions(Checked):
    """Departures from the plain training loss; the defaults are the plain loss, bit for bit."""

    band: tuple[float, float] = (0.0, 1.0)
    """t is clipped into this range (LLaDA2.0, arXiv:2512.15745). What is optimised is then no bound
    of the likelihood: the ratios beyond the band are replaced by its ends."""
    complementary: bool = False
    """Each sequence comes twice, with a mask and with its inverse, so that every token is predicted
    once (LLaDA2.0). The inverse has the ratio 1 - p: use a band that is symmetric about 0.5."""
    curriculum: Curriculum | None = None
    """Masks the positions of an extended context more often, early on."""
    z_loss: float = 0.0
    """Weight of log(sum exp(logits))^2 of each masked token (PaLM, arXiv:2204.02311)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        low, high = self.band
        check("band", self.band, 0 <= low < high <= 1, "0 <= low < high <= 1")
        check("z_loss", self.z_loss, 0 <= self.z_loss <= 1, "0 or more, up to 1")
        both = self.complementary and self.curriculum is not None
        check("complementary", self.complementary, not both, "false beside a curriculum")


@dataclass(frozen=True, kw_only=True)
class Optimisation(Checked):
    """AdamW with warmup and decay; the base of every training stage's configuration."""

    steps: int
    """Optimiser steps."""
    batch_size: int
    """Sequences in an optimiser step."""
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
class Checkpointed(Optimisation):
    """A run that goes on after it was stopped: where its states are kept, and how often."""

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

    def __post_init__(self) -> None:
        super().__post_init__()
        check_place("checkpoint_uri", self.checkpoint_uri)
        given = self.checkpoint_steps
        check("checkpoint_steps", given, given is None or given >= 1, "1 or more")
        minutes = self.checkpoint_minutes
        check("checkpoint_minutes", minutes, minutes > 0, "above 0")
        check("checkpoint_keep", self.checkpoint_keep, self.checkpoint_keep >= 1, "1 or more")


@dataclass(frozen=True, kw_only=True)
class Training(Checkpointed):
    """What the stages of the shared loop have beside that: validation, and several processes."""

    validation_examples: int = 0
    """Examples held out, from the end of the data; 0 trains on all and validates nothing."""
    validation_steps: int = 100
    """Steps between validations, each with the same noise."""
    parallel: Literal["replicate", "shard"] = "replicate"
    """Over several processes: a copy of the model in each (DDP), or a share (FSDP2)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        held = self.validation_examples
        check("validation_examples", held, held >= 0, "0 or more")
        check("validation_steps", self.validation_steps, self.validation_steps >= 1, "1 or more")
        quantised = self.lora is not None and self.lora.quantised
        together = not (quantised and self.parallel == "shard")
        check("parallel", self.parallel, together, "replicate, where lora.quantised is true")
