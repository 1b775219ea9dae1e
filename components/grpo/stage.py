"""Reinforces answers that verify: load, feed, roll out and train, save, record.

Its loop is its own because it generates between its updates (`rollouts.py`, `learner.py`).
"""

import dataclasses

from components import artifact
from components import dataset as data
from components.artifact import Input, Output
from components.grpo.config import GrpoConfig
from components.grpo.learner import Learner
from components.metrics import MetricsLog
from components.training import open_base, save_trained


def run(
    config: GrpoConfig, *, base: Input, dataset: Input, adapter: Output, metrics: Output
) -> None:
    """Trains an adapter on `base` with rewards from the dataset's verified answers."""
    model, wrapped, words = open_base(base, config)
    assert wrapped is not None, "GrpoConfig refuses a run without an adapter"
    problems = data.read(dataset, "problems")
    learner = Learner(model, wrapped, words, config)
    picks = data.shuffled(len(problems), config.batch_size // config.group, seed=config.seed)
    with MetricsLog(
        metrics, stage="grpo", total=config.steps, config=dataclasses.asdict(config)
    ) as log:
        for step in range(1, config.steps + 1):
            log({"step": step, **learner.step([problems[index] for index in next(picks)])})
    save_trained(model, wrapped, words, adapter)
    tail = log.records[-20:]
    artifact.record(
        {"adapter": adapter, "metrics": metrics},
        stage="grpo",
        config=config,
        inputs={"base": base, "dataset": dataset},
        summary={**log.summary(), "reward": sum(row["reward"] for row in tail) / len(tail)},
    )
