"""Runs the pipeline on this machine: KFP's own orchestrator, every stage a process.

`kfp.local` refuses container components in processes; the handler that refuses is replaced here,
and nowhere else. Containers and clusters are not the business of this file.
"""

import argparse
import json
import logging
import os
import shutil
import subprocess
import sys
import time
import warnings
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

from kfp import local
from kfp.local import status, subprocess_task_handler

from components.report.table import render
from pipelines import conditions, llada
from pipelines.overrides import choose
from pipelines.recipes import Recipe


class StageFailed(Exception):
    """A stage that ended with another exit code than 0."""

    def __init__(self, stage: str, code: int) -> None:
        super().__init__(f"stage {stage} failed with exit code {code}")
        self.code = 2 if code == 2 else 1


class ProcessHandler(subprocess_task_handler.SubprocessTaskHandler):
    """Runs a container's command in this environment, with the terminal as its own."""

    def validate_image(self, image: str) -> None:
        """Any image will do: none is started."""

    def validate_not_container_component(self, full_command: list[str]) -> None:
        """Container components are what this handler is for."""

    def run(self) -> status.Status:
        """Runs the command; raises StageFailed unless it ends with exit code 0."""
        stage = self.full_command[2].removeprefix("components.")
        command = [sys.executable, *self.full_command[1:]]
        started = time.monotonic()
        sys.stdout.write(f"\n=== {stage}\n")
        sys.stdout.flush()
        code = subprocess.run(command, env={**os.environ, **self.env_vars}, check=False).returncode
        if code:
            raise StageFailed(stage, code)
        sys.stdout.write(f"=== {stage} finished in {time.monotonic() - started:.1f} s\n")
        sys.stdout.flush()
        return status.Status.SUCCESS


def run(recipe: Recipe, directory: Path) -> dict:
    """Runs a recipe's pipeline below `directory` and returns its report. Raises StageFailed."""
    subprocess_task_handler.SubprocessTaskHandler = ProcessHandler
    conditions.mend()
    local.init(
        runner=local.SubprocessRunner(use_venv=False), pipeline_root=str(directory / "artifacts")
    )
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
    parser.add_argument("--runs", type=Path, default=Path(".runs"), metavar="DIR")
    parser.add_argument("--set", action="append", default=[], metavar="STAGE.FIELD=VALUE")
    given = parser.parse_args()
    try:
        recipe = choose(
            given.recipe, seed=given.seed, preference=given.preference, settings=given.set
        )
    except ValueError as error:
        _end(str(error), 2)
    directory = _directory(given.runs, given.preference, given.seed)
    try:
        report = run(recipe, directory)
    except StageFailed as error:
        _end(f"{error}; what it wrote is in {directory}", error.code)
    latest = given.runs / "latest"
    draft = given.runs / f".latest-{os.getpid()}"
    draft.symlink_to(directory.name)
    draft.replace(latest)
    print(f"\n{render(report)}\n\n{latest / 'report.html'}\n{latest / 'report.json'}")


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
