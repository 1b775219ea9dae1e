"""What a run is: the configuration of every stage, and how the model is aligned.

The run form, preflight's flags and preflight's component are made from the fields of `Recipe`.
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
from model.options import Checked

Preference = Literal["dpo", "grpo"]


@dataclass(frozen=True, kw_only=True)
class Recipe(Checked):
    """One field a parameter of the run form, described by the text below it."""

    preference: Preference = "grpo"
    """How the model is aligned: dpo or grpo."""
    download: DownloadConfig
    """Base model and data, fetched or made."""
    pretrain: PretrainConfig
    """Masked-diffusion pretraining."""
    merge: MergeConfig
    """Nothing to choose."""
    sft: SftConfig
    """Supervised fine-tuning on worked answers."""
    dpo: DpoConfig
    """Preference optimization, where preference is dpo."""
    grpo: GrpoConfig
    """Reinforcement of verified answers, where preference is grpo."""
    evaluate: EvaluateConfig
    """How answers are generated and counted."""
    evaluate_base: EvaluateConfig
    """How the base model is evaluated, which has not learnt to chat yet."""
    report: ReportConfig
    """The page about the run."""
    release: ReleaseConfig
    """How accurate a model must be to be released."""
