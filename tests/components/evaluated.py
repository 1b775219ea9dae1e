"""Evaluations of rows that a test wrote, through the command line."""

import dataclasses
import json

from components import artifact
from components.data import dataset as data
from tests.conftest import stage

EVALUATE = {"gen_length": 48, "block_length": 8, "traces": 1}


def problem(prompt, answer, verifier="exact"):
    return {"prompt": prompt, "answer": answer, "verifier": verifier}


def dataset(directory, rows, part="test"):
    """A dataset artifact with these rows in one of its files."""
    directory.mkdir(parents=True)
    data.write(directory, part, rows)
    artifact.record({"dataset": directory}, stage="rows", config=Rows(), inputs={}, summary={})
    return directory


@dataclasses.dataclass(frozen=True)
class Rows:
    """The configuration of rows that a test wrote."""


def evaluate(root, model, rows, check=True, place=None, **config):
    """The finished process, and the samples and results where there are any."""
    done = stage(
        "evaluate",
        {**EVALUATE, **config},
        check=check,
        model=model,
        dataset=place or dataset(root / "dataset", rows),
        evaluation=root / "evaluation",
        metrics=root / "metrics",
    )
    if done.returncode:
        return done, None, None
    results = json.loads((root / "evaluation" / "results.json").read_text())
    return done, read(root, "samples"), results


def read(root, name):
    text = (root / "evaluation" / f"{name}.jsonl").read_text()
    return [json.loads(line) for line in text.split("\n")[:-1]]
