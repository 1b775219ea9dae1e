"""What a run is: the configuration of every stage, and how the model is aligned.

The run form, preflight's flags and preflight's component are made from the fields of `Recipe`, and
the pipeline's graph from the training stages that are on.
"""

from dataclasses import dataclass
from typing import Literal

from components.download.config import DownloadConfig
from components.dpo.config import DpoConfig
from components.evaluate.config import EvaluateConfig
from components.grpo.config import GrpoConfig
from components.merge.config import MergeConfig
from components.pretrain.config import PretrainConfig
from components.release.config import ReleaseConfig
from components.report.config import ReportConfig
from components.sft.config import SftConfig
from model.options import Checked, check

Preference = Literal["dpo", "grpo"]
TRAINING = ("pretrain", "sft", "dpo", "grpo")


@dataclass(frozen=True, kw_only=True)
class Recipe(Checked):
    """One field a parameter of the run form, described by the text below it.

    A training stage that is None is off: the pipeline has no such task, and its form no such field.
    """

    preference: Preference = "grpo"
    """How the model is aligned: dpo or grpo."""
    download: DownloadConfig
    """Base model and data, fetched or made."""
    pretrain: PretrainConfig | None = None
    """Masked-diffusion pretraining."""
    merge: MergeConfig
    """Nothing to choose."""
    sft: SftConfig | None = None
    """Supervised fine-tuning on worked answers."""
    dpo: DpoConfig | None = None
    """Preference optimization, where preference is dpo."""
    grpo: GrpoConfig | None = None
    """Reinforcement of verified answers, where preference is grpo."""
    evaluate: EvaluateConfig
    """How answers are generated and counted."""
    evaluate_base: EvaluateConfig
    """How the base model is evaluated, which has not learnt to chat yet."""
    report: ReportConfig
    """The page about the run."""
    release: ReleaseConfig
    """How accurate a model must be to be released."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not any(getattr(self, stage) for stage in TRAINING):
            names = ", ".join(TRAINING)
            raise ValueError(f"{names}: all are null, allowed: a training stage or more")
        methods = self.methods
        good = not methods or self.preference in methods
        check("preference", self.preference, good, f"{', '.join(methods)}, the stages that are on")

    @property
    def methods(self) -> tuple[str, ...]:
        """The ways to align the model that are on."""
        return tuple(method for method in ("dpo", "grpo") if getattr(self, method) is not None)

    @property
    def adapters(self) -> tuple[str, ...]:
        """The training stages whose output is an adapter of their base, and no whole model."""
        configs = {stage: getattr(self, stage) for stage in TRAINING}
        return tuple(stage for stage, config in configs.items() if config and config.lora)

    @property
    def last(self) -> str:
        """The training stage whose model the run ends with."""
        if self.methods:
            return self.preference
        return "pretrain" if self.sft is None else "sft"

    @property
    def off(self) -> tuple[str, ...]:
        """The training stages that are off."""
        return tuple(stage for stage in TRAINING if getattr(self, stage) is None)
