"""What a supervised fine-tuning run is."""

from dataclasses import dataclass
from typing import Literal

from model.options import LossOptions, check
from model.training.config import Training


@dataclass(frozen=True, kw_only=True)
class SftConfig(Training):
    """Supervised fine-tuning on dialogues. The defaults are those of the 8B recipe."""

    steps: int = 1500
    batch_size: int = 128
    micro_batch_size: int = 1
    learning_rate: float = 1e-5
    max_length: int = 4096
    """Longest dialogue in tokens, its end included; longer ones are dropped and counted."""
    padding: Literal["batch", "max_length", "drawn"] = "drawn"
    """Length to which all rows of a step are padded with EOS: the longest dialogue of the batch and
    one EOS (as in LLaDA), max_length, or a length drawn between the two for each step. The padding
    is learnt with the answer, so that the model also ends on a longer canvas; where all answers are
    of one length, `batch` does not teach that."""
    examples: int | None = None
    """Number of dialogues that are used, from the first; null uses all."""
    objective: LossOptions = LossOptions()
    """Departures from the plain loss, each off by default; answers have no curriculum."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check("max_length", self.max_length, self.max_length >= 2, "2 or more")
        check("examples", self.examples, self.examples is None or self.examples >= 1, "1 or more")
        held, used = self.validation_examples, self.examples
        fewer = used is None or held < used
        check("validation_examples", held, fewer, f"fewer than the examples={used}")
        curriculum = self.objective.curriculum
        check(
            "objective.curriculum", curriculum, curriculum is None, "null: only pretraining has one"
        )
