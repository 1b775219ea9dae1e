"""Reinforces answers that verify: load, feed, roll out and train, save, record.

Its loop is its own because it generates between its updates (`learner.py`, `rollouts.py`).
"""

from components import dataset as data
from components.artifact import Input, Output
from components.grpo.config import GrpoConfig
from components.grpo.learner import Learner
from components.problems import usable
from components.training import open_base, train_and_record


def run(
    config: GrpoConfig, *, base: Input, dataset: Input, adapter: Output, metrics: Output
) -> None:
    """Trains an adapter on `base` with rewards from the dataset's verified answers."""
    opened = model, wrapped, words = open_base(base, config)
    assert wrapped is not None, "GrpoConfig refuses a run without an adapter"
    rows, unusable = usable(dataset, "problems", config.rewards)
    longest = model.config.max_sequence_length - config.gen_length
    problems = [row for row in rows.values() if data.tokens("problems", row, words) <= longest]
    if not problems:
        raise ValueError(
            f"gen_length={config.gen_length}: no problem leaves room for it in a context of "
            f"{model.config.max_sequence_length} tokens"
        )
    learner = Learner(model, wrapped, words, problems, config)
    train_and_record(
        "grpo",
        config,
        opened,
        learner.fit,
        inputs={"base": base, "dataset": dataset},
        adapter=adapter,
        metrics=metrics,
        summary={
            "problems": len(problems),
            "too_long": len(rows) - len(problems),
            "unusable": unusable,
        },
    )
