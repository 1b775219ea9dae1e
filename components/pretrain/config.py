"""What a pretraining run is."""

from dataclasses import dataclass

from model.options import LossOptions, check
from model.training.config import Training


@dataclass(frozen=True, kw_only=True)
class PretrainConfig(Training):
    """Masked-diffusion pretraining on plain text. The defaults are those of the 8B recipe.

    They keep the base's context; the recipe extends it, and with it the window.
    """

    steps: int = 500
    batch_size: int = 64
    micro_batch_size: int = 1
    learning_rate: float = 1e-5
    window: int = 4096
    """Tokens in a training sequence; longer documents are cut, shorter ones packed together."""
    context: int | None = None
    """Longest sequence of the trained model; beyond the base's own, positions are stretched by YaRN
    (arXiv:2309.00071). Null keeps the base's."""
    objective: LossOptions = LossOptions()
    """Departures from the plain loss, each off by default."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check("window", self.window, self.window >= 1, "1 or more")
        longest = self.context
        check("context", longest, longest is None or longest >= self.window, "the window or more")
        check("context", longest, longest is None or longest <= 2**20, "up to 2^20")
