"""The configuration of an evaluation."""

from dataclasses import dataclass
from typing import Literal

from model.options import Cache, Checked, check

Form = Literal["chat", "text"]


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(Checked):
    """Exact match on unseen problems, by lm_eval. The defaults are those of the 8B recipe."""

    form: Form = "chat"
    """How the model is given a problem: as a turn of a chat, with its solution between delimiters,
    or as plain text to continue, as in pretraining, with the last result of a line as solution."""
    gen_length: int = 256
    """New tokens per answer."""
    block_length: int = 16
    """Tokens denoised together, a block after a block; at most gen_length."""
    threshold: float | None = None
    """Confidence from which a token is committed at once; null commits one token a pass."""
    cache: Cache = "prefix"
    """Which keys and values are kept between the passes of a block."""
    batch_size: int = 8
    """Prompts generated together."""
    limit: int | None = None
    """Number of problems asked, counted from the first; null asks all."""
    reward_workers: int = 8
    """Answers that are judged at the same time, for verifiers that run other processes."""
    traces: int = 8
    """Number of problems, from the first, whose denoising is recorded pass by pass."""
    seed: int = 0
    """Seed of the likelihoods that a task of lm_eval may request; generation is greedy."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check("gen_length", self.gen_length, self.gen_length >= 1, "1 or more")
        fits = 1 <= self.block_length <= self.gen_length
        check("block_length", self.block_length, fits, f"1 to gen_length={self.gen_length}")
        in_range = self.threshold is None or 0 <= self.threshold <= 1
        check("threshold", self.threshold, in_range, "0 to 1")
        check("batch_size", self.batch_size, self.batch_size >= 1, "1 or more")
        check("limit", self.limit, self.limit is None or self.limit >= 1, "1 or more")
        check("reward_workers", self.reward_workers, self.reward_workers >= 1, "1 or more")
        check("traces", self.traces, self.traces >= 0, "0 or more")
        check("seed", self.seed, 0 <= self.seed < 2**32, "0 to 2^32 - 1")
