"""Reinforces answers that verify: load, feed, roll out and train, save, record.

Its loop is its own because it generates between its updates (`learner.py`, `rollouts.py`).
"""

from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from components import dataset as data
from components.artifact import Input, Output
from components.grpo.config import GrpoConfig
from components.grpo.learner import Learner
from components.training import open_base, train_and_record
from model import checkpoint, rewards, tokenizer
from model.settings import check

NAMED = 5  # rows that are named of those left out


def run(
    config: GrpoConfig, *, base: Input, dataset: Input, adapter: Output, metrics: Output
) -> None:
    """Trains an adapter on `base` with rewards from the dataset's verified answers.

    Problems without a prompt, or too long for the context, are left out, named and counted.
    """
    context = checkpoint.read_config(base).max_sequence_length
    check(
        "gen_length",
        config.gen_length,
        config.gen_length < context,
        f"below {context}, the context",
    )
    problems, left_out = _usable(dataset, tokenizer.load(base), config, context)
    rewards.require(problems, config.rewards)
    opened = model, wrapped, words = open_base(base, config)
    assert wrapped is not None, "GrpoConfig refuses a run without an adapter"
    learner = Learner(model, wrapped, words, problems, config)
    train_and_record(
        "grpo",
        config,
        opened,
        learner.fit,
        inputs={"base": base, "dataset": dataset},
        adapter=adapter,
        metrics=metrics,
        summary={"problems": len(problems), **left_out},
    )


def _usable(
    dataset: Path, words: PreTrainedTokenizerBase, config: GrpoConfig, context: int
) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """The problems that can be asked, and how many were left out by reason.

    Raises ValueError where none is left.
    """
    rows = data.read(dataset, "problems")
    left_out: dict[str, list[int]] = {"too_long": [], "empty_prompt": []}
    problems = []
    for number, row in enumerate(rows, 1):
        if not row["prompt"].strip():
            left_out["empty_prompt"].append(number)
        elif data.tokens("problems", row, words) > context - config.gen_length:
            left_out["too_long"].append(number)
        else:
            problems.append(row)
    said = "; ".join(f"{name}: rows {_few(found)}" for name, found in left_out.items() if found)
    if not problems:
        raise ValueError(
            f"gen_length={config.gen_length}: no problem leaves room for it in a context of "
            f"{context} tokens ({dataset}/problems.jsonl, {said})"
        )
    if said:
        print(f"grpo: {dataset}/problems.jsonl: left out {said}", flush=True)
    return problems, {name: len(found) for name, found in left_out.items()}


def _few(rows: list[int]) -> str:
    more = f" and {len(rows) - NAMED} more" if len(rows) > NAMED else ""
    return ", ".join(map(str, rows[:NAMED])) + more
