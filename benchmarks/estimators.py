"""GRPO's log-probability estimators on the tiny task, at equal forward passes, seed by seed.

`python -m benchmarks.estimators RUN...` takes finished runs of the tiny recipe, one a seed. From
each run's SFT model it trains with every estimator, at the recipe's learning rate and at half of
it, until the same number of forward passes is spent on rollouts, behaviour and updates together,
and follows exact match on problems held out from it. Each processor takes a curve at a time. Prints
a table and draws docs/estimators.svg, every estimator at its better rate; a quarter of an hour a
run on two cores.
"""

import argparse
import dataclasses
import itertools
import os
import statistics
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import matplotlib.pyplot
import torch
from transformers import PreTrainedTokenizerBase

from components.data import dataset as data
from components.grpo.config import GrpoConfig
from components.grpo.learner import Learner
from components.rewards import named
from components.session.session import open_base
from model import sampler
from model.batching import pad_left
from model.llada import LLaDA
from model.tokenizer import encode_chat, stop_tokens
from pipelines.recipes import tiny

PLOT = Path(__file__).parents[1] / "docs" / "estimators.svg"
# The trajectory's slices of 8 of at most 32 tokens: the offset cuts one in two, which makes a view.
VIEWS = {"one_pass": 1, "complementary": 3, "elbo": 2, "trajectory": 4}
PASSES = {"elbo": 2, "trajectory": 4}
BUDGET, MARKS = 400, 4  # forward passes of a batch of rollouts; how often accuracy is taken
ROLLOUT = 10  # passes of a batch of rollouts, roughly: the length of the schedule follows from it
HELD_OUT = 500
RATES = (1.0, 0.5)  # of the recipe's learning rate
Curve = list[tuple[int, float]]
Found = dict[tuple[str, float], list[Curve]]


def main() -> None:
    """The command line: curves of every run and estimator, their table and plot."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.estimators", description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, help="directories of finished runs")
    runs = parser.parse_args().runs
    start = get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count(), start, torch.set_num_threads, (1,)) as pool:
        futures = {
            way: [pool.submit(_curve, run, *way) for run in runs]
            for way in itertools.product(VIEWS, RATES)
        }
        found = {way: [curve.result() for curve in curves] for way, curves in futures.items()}
    print(_table(found))
    _draw(found)


def _curve(run: Path, estimator: str, rate: float) -> Curve:
    """(passes spent, exact match on held-out problems), from the SFT model on."""
    steps = BUDGET // (ROLLOUT + 2 * VIEWS[estimator])
    recipe = tiny().grpo
    assert recipe is not None
    changes: dict[str, Any] = {
        "steps": steps,
        "estimator": estimator,
        "passes": PASSES.get(estimator, recipe.passes),
        "learning_rate": rate * recipe.learning_rate,
    }
    config = dataclasses.replace(recipe, **changes)
    (dataset,) = run.glob("artifacts/*/download/dataset")
    (base,) = run.glob("artifacts/*/sft/trained")
    problems = data.read(dataset, "problems")
    held_out = problems[-HELD_OUT:]
    model, wrapped, tokenizer = open_base(base, config)
    assert wrapped is not None
    learner = Learner(model, wrapped, tokenizer, problems[:-HELD_OUT], config)
    spent, curve = 0, [(0, _accuracy(model, tokenizer, held_out, config))]
    for number in range(steps):
        spent += learner.step(number)["rollout_passes"] + 2 * VIEWS[estimator]
        if number + 1 == steps or spent >= len(curve) * BUDGET / MARKS:
            curve.append((spent, _accuracy(model, tokenizer, held_out, config)))
    print(f"{run.name} {estimator} {rate} {curve}", flush=True)
    return curve


def _accuracy(
    model: LLaDA, tokenizer: PreTrainedTokenizerBase, problems: list[dict], config: GrpoConfig
) -> float:
    """Exact match of the most likely answers."""
    prompts = [encode_chat(tokenizer, data.prompt_messages(row)) for row in problems]
    prompt_BP, seen_BP = pad_left(prompts, model.config.pad_token_id)
    generation = sampler.generate(
        model.eval(),
        prompt_BP,
        gen_length=config.gen_length,
        block_length=config.block_length,
        threshold=config.threshold,
        cache="dual",
        attention_mask_BP=seen_BP,
        stop_tokens=stop_tokens(tokenizer),
    )
    answers = tokenizer.batch_decode(generation.tokens_BL[:, prompt_BP.shape[1] :])
    pairs = zip(answers, problems, strict=True)
    return statistics.mean(named.is_right(answer, row) for answer, row in pairs)


def _rise(curves: list[Curve]) -> float:
    """Points of exact match that the seeds gained on average."""
    return statistics.mean(100 * (curve[-1][1] - curve[0][1]) for curve in curves)


def _table(found: Found) -> str:
    """Markdown: where each seed ended, and by how much estimators raise accuracy on average."""
    lines = ["| estimator | rate | seeds: before, after | mean rise |", "|---|---|---|---|"]
    for (estimator, rate), curves in found.items():
        ends = ", ".join(f"{100 * c[0][1]:.1f} to {100 * c[-1][1]:.1f}" for c in curves)
        lines.append(f"| {estimator} | {rate:g} | {ends} | {_rise(curves):+.1f} |")
    return "\n".join(lines)


def _draw(found: Found) -> None:
    """One line a seed, thin, and one for the mean of the seeds at each mark."""
    figure, axes = matplotlib.pyplot.subplots(figsize=(7, 4))
    for number, estimator in enumerate(VIEWS):
        rate = max(RATES, key=lambda rate: _rise(found[estimator, rate]))
        curves = [
            [(spent, 100 * (v - curve[0][1])) for spent, v in curve]
            for curve in found[estimator, rate]
        ]
        for curve in curves:
            axes.plot(*zip(*curve, strict=True), color=f"C{number}", alpha=0.25)
        marks = zip(*curves, strict=False)  # a curve may have one more
        means = [[statistics.mean(values) for values in zip(*mark, strict=True)] for mark in marks]
        label = f"{estimator}, rate {rate:g}"
        axes.plot(*zip(*means, strict=True), color=f"C{number}", linewidth=2, label=label)
    axes.set(xlabel="forward passes", ylabel="points of exact match over SFT")
    axes.legend()
    figure.savefig(PLOT, bbox_inches="tight", metadata={"Date": None})


if __name__ == "__main__":
    main()
