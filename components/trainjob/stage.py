"""Runs a training stage on several nodes by hand: build its configuration, and launch it.

In a pipeline the stage's own component does this, where its placement says so (`launch.py`).
"""

from components import coerce
from components.artifact import Input, Output
from components.dpo.config import DpoConfig
from components.grpo.config import GrpoConfig
from components.pretrain.config import PretrainConfig
from components.sft.config import SftConfig
from components.trainjob.config import Stage, TrainjobConfig
from components.trainjob.launch import launch
from model.training.config import Resumable

CONFIGS: dict[Stage, type[Resumable]] = {
    "pretrain": PretrainConfig,
    "sft": SftConfig,
    "dpo": DpoConfig,
    "grpo": GrpoConfig,
}


def run(
    config: TrainjobConfig,
    *,
    settings: dict,
    base: Input,
    dataset: Input,
    trained: Output,
    metrics: Output,
) -> None:
    """Runs `config.stage` with `settings` as a TrainJob and copies its outputs to this stage's own.

    Raises what `launch` raises.
    """
    built = coerce.build(CONFIGS[config.stage], settings)
    inputs, outputs = {"base": base, "dataset": dataset}, {"trained": trained, "metrics": metrics}
    launch(config, built, inputs, outputs)
