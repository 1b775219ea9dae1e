"""What a preference optimisation run is."""

from dataclasses import dataclass

from model.settings import Lora, Optimisation, check


@dataclass(frozen=True, kw_only=True)
class DpoConfig(Optimisation):
    """DPO with variance-reduced ELBOs (VRPO). The defaults are those of the 8B recipe."""

    steps: int = 1000
    batch_size: int = 64
    micro_batch_size: int = 1
    learning_rate: float = 5e-5
    lora: Lora | None = Lora()
    max_length: int = 4096
    """Longest prompt and answer in tokens; longer pairs are dropped and counted."""
    beta: float = 0.2
    """How hard the margin is pushed: the inverse temperature of the implicit reward."""
    draws: int = 8
    """Timesteps per ELBO, each with one mask."""
    sft_weight: float = 0.0
    """Weight of the plain SFT loss on the chosen answer, added to the preference loss."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check("max_length", self.max_length, self.max_length >= 2, "2 or more")
        check("beta", self.beta, self.beta > 0, "above 0")
        check("lora", self.lora, self.lora is not None, "an adapter: without it is the reference")
        check("draws", self.draws, self.draws >= 1, "1 or more")
        check("sft_weight", self.sft_weight, self.sft_weight >= 0, "0 or more")
