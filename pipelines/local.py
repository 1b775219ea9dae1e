"""Runs the pipeline on this machine with KFP's own orchestrator: the command line and the report.

How a stage is started is in `processes.py` and `containers.py`; clusters are not the business of
this file.
"""

import argparse
import json
import logging
import os
import shutil
import sys
import warnings
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn, TypeAlias

from kfp import local

from components.report.table import render
from pipelines import conditions, containers, llada, processes
from pipelines.overrides import choose
from pipelines.processes import StageFailed
from pipelines.recipes import Recipe

RUNNERS = ("process", "docker")
Runner: TypeAlias = local.SubprocessRunner | local.DockerRunner


def run(recipe: Recipe, directory: Path, runner: Runner) -> dict:
    """Runs a recipe's pipeline below `directory` and returns its report. Raises StageFailed."""
    conditions.mend()
    root = directory / "artifacts"
    root.mkdir()
    local.init(runner=runner, pipeline_root=str(root))
    logging.disable(logging.INFO)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*no effect in the current local runner.*")
        llada.build(recipe)()
    logging.disable(logging.NOTSET)
    (page,) = directory.glob("artifacts/*/report*/report/report.html")
    for file in (page, page.with_suffix(".json")):
        shutil.copyfile(file, directory / file.name)
    return json.loads((directory / "report.json").read_text())


def main() -> None:
    """The command line behind `make pipeline-run`."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.local", description=__doc__)
    parser.add_argument("--recipe", default="tiny")
    parser.add_argument("--preference", default="grpo")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runner", default="process")
    parser.add_argument("--runs", type=Path, default=Path(".runs"), metavar="DIR")
    parser.add_argument("--set", action="append", default=[], metavar="STAGE.FIELD=VALUE")
    given = parser.parse_args()
    try:
        recipe = choose(
            given.recipe, seed=given.seed, preference=given.preference, settings=given.set
        )
        runner = _runner(given.runner, given.runs)
    except ValueError as error:
        _end(str(error), 2)
    directory = _directory(given.runs, recipe.preference, given.seed)
    try:
        report = run(recipe, directory, runner)
    except StageFailed as error:
        _end(f"{error}; what it wrote is in {directory}", error.code)
    latest = given.runs / "latest"
    draft = given.runs / f".latest-{os.getpid()}"
    draft.symlink_to(directory.name)
    draft.replace(latest)
    print(f"\n{render(report)}\n\n{latest / 'report.html'}\n{latest / 'report.json'}")


def _runner(name: str, runs: Path) -> Runner:
    if name not in RUNNERS:
        raise ValueError(f"RUNNER={name}, allowed: {', '.join(RUNNERS)}")
    return processes.runner() if name == "process" else containers.runner(runs / ".cache")


def _directory(runs: Path, preference: str, seed: int) -> Path:
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S-%f")[:-3]
    directory = (runs / f"{stamp}-{preference}-seed{seed}").resolve()
    directory.mkdir(parents=True)
    return directory


def _end(message: str, code: int) -> NoReturn:
    print(f"pipeline: error: {message}", file=sys.stderr)
    raise SystemExit(code)


if __name__ == "__main__":
    main()
