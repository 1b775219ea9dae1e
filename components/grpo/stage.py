"""Reinforces answers that verify: load, feed, train, save, record.

The loop is GRPO's own (`learner.py`), because it generates between its updates (`rollouts.py`).
"""

from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from components import adapted
from components.artifact import Input, Inputs, Output
from components.data import dataset as data
from components.data.problems import tell, usable
from components.grpo.config import GrpoConfig
from components.grpo.learner import Learner
from components.session.attempts import remembered
from components.session.session import keep_progress, open_base, record, save_trained
from model.options import check
from model.tokenizer import load_tokenizer


@remembered
def run(
    config: GrpoConfig,
    *,
    base: Input,
    adapters: Inputs = (),
    dataset: Input,
    trained: Output,
    metrics: Output,
) -> None:
    """Trains an adapter on `base` with rewards from the dataset's verified answers.

    Problems that cannot be judged or are too long for the context are left out, named and counted.
    """
    # Load
    context = adapted.read_config(base, adapters).max_sequence_length
    fits = config.gen_length < context
    check("gen_length", config.gen_length, fits, f"below {context}, the context")
    # The problems before the model: bad data should not wait for minutes of loading.
    tokenizer = load_tokenizer(adapted.tokenizer_directory(base, adapters))
    problems, left_out = _usable(dataset, tokenizer, config, context)
    session = open_base(base, config, adapters=adapters)
    model, adapter, tokenizer = session
    assert adapter is not None, "GrpoConfig refuses a run without an adapter"

    # Feed
    learner = Learner(model, adapter, tokenizer, problems, config)

    # Train
    inputs = {"base": base, **adapted.named(adapters), "dataset": dataset}
    with keep_progress("grpo", config, inputs=inputs, metrics=metrics) as progress:
        learner.fit(progress.log, checkpoints=progress.checkpoints, snapshot=progress.snapshot)

    # Save
    save_trained(session, trained)

    # Record
    record(progress, trained, summary={"problems": len(problems), **left_out})


def _usable(
    dataset: Path, tokenizer: PreTrainedTokenizerBase, config: GrpoConfig, context: int
) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """The usable problems, and how many were left out for each reason.

    Raises ValueError where none is left.
    """
    rows, unusable = usable(dataset, "problems", config.rewards)
    longest = context - config.gen_length
    lengths = {number: data.tokens("problems", row, tokenizer) for number, row in rows.items()}
    too_long = {
        number: f"{tokens} tokens, allowed: {longest}, the context without gen_length"
        for number, tokens in lengths.items()
        if tokens > longest
    }
    path = dataset / "problems.jsonl"
    tell(path, too_long, "left out")
    problems = [row for number, row in rows.items() if number not in too_long]
    if not problems:
        raise ValueError(
            f"{path}: gen_length={config.gen_length}: no problem leaves room for it in a "
            f"context of {context} tokens"
        )
    return problems, {"too_long": len(too_long), "unusable": unusable}
