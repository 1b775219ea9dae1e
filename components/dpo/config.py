"""What a preference optimization run is."""

from dataclasses import dataclass

from model.options import Lora, MarginLoss, check, check_text
from model.training.config import SCHEME, Training


@dataclass(frozen=True, kw_only=True)
class DpoConfig(Training):
    """DPO with variance-reduced ELBOs (VRPO). The defaults are those of the 8B recipe."""

    steps: int = 1000
    batch_size: int = 64
    micro_batch_size: int = 1
    learning_rate: float = 5e-5
    lora: Lora | None = Lora(dropout=0.0)
    max_length: int = 4096
    """Longest prompt and answer in tokens; longer pairs are dropped and counted."""
    beta: float = 0.2
    """Inverse temperature of the implicit reward; a larger one pushes small margins harder."""
    draws: int = 8
    """Timesteps per ELBO, each with one mask."""
    loss: MarginLoss = "sigmoid"
    """Loss of a margin: DPO's, or IPO's square, which does not push margins to infinity."""
    label_smoothing: float = 0.0
    """Share of the pairs taken as labelled the wrong way round, for the sigmoid loss."""
    length_normalized: bool = False
    """Divides each ELBO by its answer's tokens, so that long answers do not dominate."""
    reference_cache: str | None = None
    """Local directory where the reference's margins are kept by the pair's content, so that they
    are computed once; a pair's noise is then the same in every epoch. Null computes them anew."""
    sft_weight: float = 0.0
    """Weight of the plain SFT loss on the chosen answer, added to the preference loss."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check("max_length", self.max_length, self.max_length >= 2, "2 or more")
        check("beta", self.beta, 0 < self.beta <= 1000, "above 0, up to 1000")
        check(
            "lora",
            self.lora,
            self.lora is not None,
            "an adapter: the model without it is the reference",
        )
        assert self.lora is not None
        dropout = self.lora.dropout
        check("lora.dropout", dropout, dropout == 0, "0: it would be noise in the margin")
        smoothing = self.label_smoothing
        check("label_smoothing", smoothing, 0 <= smoothing < 0.5, "0 to below 0.5")
        plain = self.loss == "sigmoid" or smoothing == 0
        check("label_smoothing", smoothing, plain, "0 with loss='ipo'")
        check("draws", self.draws, 1 <= self.draws <= 1000, "1 or more, up to 1000")
        cache = self.reference_cache
        check_text("reference_cache", cache, "null or a local directory")
        is_local = cache is None or not SCHEME.match(cache)
        check("reference_cache", cache, is_local, "null or a local directory")
        check("sft_weight", self.sft_weight, 0 <= self.sft_weight <= 1000, "0 or more, up to 1000")
