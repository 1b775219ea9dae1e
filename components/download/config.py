"""What is downloaded, or made where a run needs nothing from outside."""

from dataclasses import dataclass

from model.settings import check


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A new, untrained LLaDA of this shape."""

    d_model: int = 128
    """Width of the residual stream."""
    n_layers: int = 4
    """Transformer blocks."""
    n_heads: int = 4
    """Attention heads."""
    mlp_hidden_size: int = 384
    """Width of the feed-forward layers."""
    vocabulary: int = 384
    """Embedding rows; the tokenizer trained on the data takes as many or fewer."""
    context: int = 128
    """Longest sequence in tokens."""
    rope_theta: float = 30.0
    """Base of the rotary frequencies; 30 gives heads of 32 a longest wavelength of 150 tokens, so
    that every frequency tells positions of a short sequence apart."""

    def __post_init__(self) -> None:
        for name in ("d_model", "n_layers", "n_heads", "mlp_hidden_size", "context"):
            check(f"shape.{name}", getattr(self, name), getattr(self, name) >= 1, "1 or more")
        check("shape.vocabulary", self.vocabulary, self.vocabulary >= 300, "300 or more")
        check("shape.rope_theta", self.rope_theta, self.rope_theta > 1, "above 1")
        even = self.d_model % (2 * self.n_heads) == 0
        check("shape.d_model", self.d_model, even, f"a multiple of {2 * self.n_heads}")


@dataclass(frozen=True, kw_only=True)
class DownloadConfig:
    """Where the base model and the data come from."""

    model: str = "GSAI-ML/LLaDA-8B-Base"
    """A local directory or a Hub repository; "new" makes an untrained model of `shape`."""
    revision: str | None = None
    """Commit of the Hub model repository; pin it, a branch moves."""
    shape: Shape = Shape()
    """Shape of a new model, where `model` is "new"."""
    dataset: str | None = None
    """A local directory or a Hub dataset repository with the five JSONL files of the stages;
    null makes sums with worked solutions."""
    dataset_revision: str | None = None
    """Commit of the Hub dataset repository."""
    test_problems: int = 250
    """Problems held out of the made data."""
    seed: int = 0
    """Seed of the made data and of a new model's weights."""

    def __post_init__(self) -> None:
        check("test_problems", self.test_problems, 1 <= self.test_problems <= 2000, "1 to 2000")
        check("seed", self.seed, 0 <= self.seed < 2**31, "0 to 2^31 - 1")
