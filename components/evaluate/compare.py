"""Two evaluations of the same problems side by side: is the difference more than noise?

    python -m components.evaluate.compare FIRST SECOND

For each task the scores, their difference, and its 95% interval by a paired bootstrap over the
problems (Efron and Tibshirani 1993, chapter 13): both models are drawn the same problems, so that
what is hard for both does not count as noise. A difference whose interval holds zero is noise.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from components import artifact
from components.failure import as_line, explain

RESAMPLES = 10_000
SAMPLES = "samples.jsonl"
HEAD = "| task | problems | first | second | difference | 95% interval | |"


class Comparison(NamedTuple):
    """Scores of one task and their difference, second minus first; shares, not percent."""

    task: str
    problems: int
    first: float
    second: float
    low: float
    high: float

    @property
    def difference(self) -> float:
        """How much better the second is."""
        return self.second - self.first

    @property
    def is_noise(self) -> bool:
        """Whether the interval of the difference holds zero."""
        return self.low <= 0 <= self.high


def compare(first: Path, second: Path, *, seed: int = 0) -> list[Comparison]:
    """Every task that both evaluations asked. Raises ValueError unless it was of the same problems.

    Raises ArtifactError where a directory is no complete evaluation.
    """
    scores = [_scores(path) for path in (first, second)]
    tasks = [task for task in scores[0] if task in scores[1]]
    if not tasks:
        named = [", ".join(of_tasks) for of_tasks in scores]
        raise ValueError(f"tasks {named[0]} and {named[1]}, allowed: evaluations that share a task")
    return [_comparison(task, scores[0][task], scores[1][task], seed) for task in tasks]


def _comparison(
    task: str, first: dict[str, float], second: dict[str, float], seed: int
) -> Comparison:
    if first.keys() != second.keys():
        both = len(first.keys() & second.keys())
        raise ValueError(
            f"{task}: {len(first)} and {len(second)} problems, {both} of them in both, "
            "allowed: evaluations of the same problems"
        )
    ours, theirs = (np.array([scores[key] for key in first]) for scores in (first, second))
    low, high = _interval(theirs - ours, seed)
    return Comparison(task, len(ours), float(ours.mean()), float(theirs.mean()), low, high)


def _interval(difference_N: np.ndarray, seed: int) -> tuple[float, float]:
    """The percentile interval of the mean, 95%."""
    draw = np.random.default_rng(seed)
    count = len(difference_N)
    # Problems are drawn by how often each value of the difference comes: few values, small memory.
    values, times = np.unique(difference_N, return_counts=True)
    counts = draw.multinomial(count, times / count, size=RESAMPLES)
    low, high = np.percentile(counts @ values / count, (2.5, 97.5))
    return float(low), float(high)


def _scores(path: Path) -> dict[str, dict[str, float]]:
    """The score of each problem by task; the same problem twice counts twice."""
    record = artifact.read(path)
    if record["output"] != "evaluation":
        raise ValueError(f"{path}: {record['output']} of {record['stage']}, allowed: an evaluation")
    found: dict[str, dict[str, float]] = {}
    with (path / SAMPLES).open(encoding="utf-8", newline="\n") as file:
        for line in file:
            sample = json.loads(line)
            if sample["correct"] is not None:  # a perplexity has no share of one problem
                scores = found.setdefault(sample.get("task", "test"), {})
                scores[_key(sample, scores)] = float(sample["correct"])
    return found


def _key(sample: dict[str, Any], scores: dict[str, float]) -> str:
    """What tells a problem from the others of its task."""
    key = json.dumps([sample["prompt"], sample["answer"]])
    number = 0
    while f"{key} {number}" in scores:
        number += 1
    return f"{key} {number}"


def table(comparisons: list[Comparison]) -> str:
    """Markdown, in percent."""
    lines = [HEAD, "|---|---|---|---|---|---|---|"]
    for row in comparisons:
        verdict = "noise" if row.is_noise else ("better" if row.difference > 0 else "worse")
        lines.append(
            f"| {row.task} | {row.problems} | {100 * row.first:.1f} | {100 * row.second:.1f} "
            f"| {100 * row.difference:+.1f} | {100 * row.low:+.1f} to {100 * row.high:+.1f} "
            f"| {verdict} |"
        )
    return "\n".join(lines)


def main() -> None:
    """The command line; exit code 2 for what cannot be compared."""
    parser = argparse.ArgumentParser(
        prog="python -m components.evaluate.compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("first", type=Path, help="an evaluation")
    parser.add_argument("second", type=Path, help="an evaluation of another model")
    parser.add_argument("--seed", type=int, default=0, help="seed of the bootstrap")
    given = parser.parse_args()
    try:
        print(table(compare(given.first, given.second, seed=given.seed)))
    except (ValueError, OSError) as error:
        print(f"compare: error: {as_line(explain(error))}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
