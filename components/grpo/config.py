"""What a reinforcement learning run is."""

from dataclasses import dataclass

from components.rewards.config import JudgeConfig, check_rewards
from model.options import Estimator, Lora, check
from model.training.config import Resumable


@dataclass(frozen=True, kw_only=True)
class GrpoConfig(Resumable):
    """GRPO with verifiable rewards. The defaults are those of the 8B recipe.

    A step is one batch of rollouts. `batch_size` counts rollouts, so that a step has
    batch_size / group prompts.
    """

    steps: int = 500
    batch_size: int = 64
    micro_batch_size: int = 4
    learning_rate: float = 3e-5
    lora: Lora | None = Lora(dropout=0.0)
    group: int = 4
    """Answers per prompt, compared with each other; divides batch_size."""
    inner_updates: int = 12
    """Passes over each batch of rollouts, each with masks of its own."""
    minibatch: int | None = None
    """Most rollouts in an optimizer step, a divisor of batch_size; null takes the whole batch. The
    n rollouts of groups whose rewards differ make ceil(n / minibatch) steps of nearly equal
    size."""
    normalize: bool = True
    """Whether advantages are divided by their group's standard deviation (off in Dr. GRPO)."""
    leave_one_out: bool = False
    """Whether an answer is compared with the mean of the others in its group (RLOO)."""
    clip_low: float = 0.2
    """How far below 1 the probability ratio may fall before its gradient is cut."""
    clip_high: float = 0.2
    """How far above 1 the probability ratio may rise before its gradient is cut."""
    kl: float = 0.04
    """Weight of the divergence from the reference, the model without its adapter."""
    estimator: Estimator = "trajectory"
    """How log-probabilities are estimated. `one_pass` hides the whole answer (diffu-GRPO).
    `complementary` is the mean of that pass and of two passes that split the answer between them
    (coupled-GRPO). `elbo` is the ELBO by quadrature, for whole sequences (GDPO). `trajectory` takes
    the tokens in the order in which they were committed (TraceRL)."""
    slice_tokens: int = 8
    """Tokens that the trajectory estimator scores in one view; 1 makes a view of every pass."""
    passes: int = 4
    """Forward passes per estimate: quadrature points of `elbo`, slices of `trajectory` (which needs
    one more: a random offset splits a slice). Of an answer with more slices some are drawn at
    random, with a larger weight."""
    prompt_mask: float = 0.15
    """Share of prompt tokens masked by the one-pass estimator."""
    gen_length: int = 256
    """New tokens per answer."""
    block_length: int = 16
    """Tokens that are denoised together, block after block; at most gen_length."""
    threshold: float | None = None
    """Confidence from which a token is committed at once; null commits on a fixed schedule."""
    temperature: float = 0.9
    """Temperature of the rollouts, at which they are scored as well."""
    rewards: tuple[tuple[str, float], ...] = (("verified", 1.0), ("format", 0.1))
    """Names of rewards (components/rewards/named.py) and their weights: the verdict of each
    problem's own verifier, exact, math, code, countdown, sudoku, format, equations (of the
    thought), overlong."""
    reward_workers: int = 8
    """Answers that are scored at the same time; scoring may run code or compare formulas."""
    judge: JudgeConfig | None = None
    """A language model that scores each group, beside the rewards; null uses no judge."""

    def __post_init__(self) -> None:
        super().__post_init__()
        groups = self.group >= 2 and self.batch_size % self.group == 0
        check("group", self.group, groups, f"2 or more, a divisor of batch_size={self.batch_size}")
        updates = self.inner_updates
        check("inner_updates", updates, 1 <= updates <= 1000, "1 or more, up to 1000")
        size = self.minibatch
        divides = size is None or (size >= 1 and self.batch_size % size == 0)
        check("minibatch", size, divides, f"a divisor of batch_size={self.batch_size}")
        check("clip_low", self.clip_low, 0 < self.clip_low < 1, "between 0 and 1")
        check("clip_high", self.clip_high, self.clip_high > 0, "above 0")
        check("kl", self.kl, self.kl >= 0, "0 or more")
        check("slice_tokens", self.slice_tokens, self.slice_tokens >= 1, "1 or more")
        check("passes", self.passes, 1 <= self.passes <= 64, "1 to 64")
        check("prompt_mask", self.prompt_mask, 0 <= self.prompt_mask < 1, "0 to below 1")
        check("gen_length", self.gen_length, self.gen_length >= 1, "1 or more")
        fits = 1 <= self.block_length <= self.gen_length
        check("block_length", self.block_length, fits, f"1 to gen_length={self.gen_length}")
        in_range = self.threshold is None or 0 <= self.threshold <= 1
        check("threshold", self.threshold, in_range, "0 to 1")
        warm = 0 < self.temperature <= 100
        check("temperature", self.temperature, warm, "above 0, up to 100")
        check_rewards("rewards", self.rewards)
        counts = self.judge is not None or any(weight for _, weight in self.rewards)
        check("rewards", self.rewards, counts, "a weight other than 0, or a judge")
        workers = self.reward_workers
        check("reward_workers", workers, 1 <= workers <= 1000, "1 or more, up to 1000")
        check(
            "lora",
            self.lora,
            self.lora is not None,
            "an adapter: the model without it is the reference",
        )
        assert self.lora is not None
        dropout = self.lora.dropout
        check("lora.dropout", dropout, dropout == 0, "0: rollouts and updates score one policy")
