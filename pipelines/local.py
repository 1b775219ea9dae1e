"""Runs the pipeline on this machine with KFP's own orchestrator: the command line and the report.

`processes.py` and `containers.py` start the stages; `submit.py` runs the pipeline on a cluster.
"""

import argparse
import contextlib
import itertools
import json
import logging
import shutil
import sys
import tempfile
import warnings
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn, TypeAlias

from google.protobuf.json_format import MessageToDict
from kfp import local

from components import storage
from components.failure import as_line, explain
from components.preflight.config import Recipe
from components.report.table import render
from model.options import check
from model.training.preemption import Stopped, stoppable
from pipelines import conditions, containers, llada, pins, processes
from pipelines.overrides import choose
from pipelines.placement import VOLUME, on_volume
from pipelines.processes import StageFailed
from pipelines.stages import stages

RUNNERS = ("process", "docker")
Runner: TypeAlias = local.SubprocessRunner | local.DockerRunner


def run(recipe: Recipe, directory: Path, runner: Runner) -> dict:
    """Runs a recipe's pipeline below `directory` and returns its report. Raises StageFailed."""
    conditions.mend()
    root = directory / "artifacts"
    root.mkdir()
    # KFP makes a workspace that no stage uses, and leaves it behind when a run ends early.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as workspace:
        local.init(runner=runner, pipeline_root=str(root), workspace_root=workspace)
        logging.disable(logging.INFO)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*no effect in the current local runner.*")
            pipeline = llada.build(recipe)
            spec = MessageToDict(pipeline.pipeline_spec)
            processes.NAMES.update({stage.key: stage.name for stage in stages(spec)})
            pipeline()
        logging.disable(logging.NOTSET)
    (page,) = directory.glob("artifacts/*/report*/report/report.html")
    for file in (page, page.with_suffix(".json")):
        shutil.copyfile(file, directory / file.name)
    return json.loads((directory / "report.json").read_text())


def main() -> None:
    """The command line behind `make pipeline-run`.

    A signal ends the running stage, which may save first, and then this process: exit code 143 for
    SIGTERM, 130 for Ctrl-C, 129 for SIGHUP. 2 means bad input; 1 means that a stage failed or that
    the operating system refused something.
    """
    parser = argparse.ArgumentParser(prog="python -m pipelines.local", description=__doc__)
    parser.add_argument("--recipe", default="tiny")
    parser.add_argument("--preference", default="grpo")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runner", default="process")
    parser.add_argument("--runs", type=Path, default=Path(".runs"), metavar="DIR")
    parser.add_argument("--set", action="append", default=[], metavar="STAGE.FIELD=VALUE")
    pins.add_option(parser)
    options = parser.parse_args()
    try:
        with stoppable():
            _run(options)
    except Stopped as notice:
        _end(str(notice), notice.code, kind="stopped")
    except ValueError as error:
        _end(str(error), 2)
    except OSError as error:
        _end(explain(error), 1)


def _run(options: argparse.Namespace) -> None:
    recipe = choose(
        options.recipe, seed=options.seed, preference=options.preference, settings=options.set
    )
    latest = options.runs / "latest"
    check(
        "RUNS", str(options.runs), options.runs.is_dir() or not options.runs.exists(), "a directory"
    )
    check("RUNS", str(options.runs), latest.is_symlink() or not latest.exists(), "latest is a link")
    recipe = unmounted(recipe)
    runner = _runner(options.runner, options.runs)
    recipe = recipe if options.no_pins else pins.pin(recipe)
    directory = new_directory(options.runs, f"{recipe.last}-seed{options.seed}")
    remains = f"what it wrote is in {directory}"
    try:
        report = run(recipe, directory, runner)
    except StageFailed as error:
        _end(f"{error}; {remains}", error.code)
    except Stopped as notice:
        _end(f"{notice}; {remains}", notice.code, kind="stopped")
    draft = options.runs / f".latest-{directory.name}"
    draft.symlink_to(directory.name)
    draft.replace(latest)
    print(f"\n{render(report)}\n\n{directory / 'report.html'}\n{directory / 'report.json'}")


def unmounted(recipe: Recipe) -> Recipe:
    """The recipe with its base in the run's directory, where it would be on a cluster's volume.

    Stages on one machine read each other's files where they are, so that nothing is copied.
    """
    download = recipe.download
    if not on_volume(download) or Path(VOLUME[1]).is_dir():
        return recipe
    print(f"pipeline: no {VOLUME[1]} on this machine: the base is kept in the run's directory")
    mirror = download.mirror if storage.is_remote(download.mirror or "") else None
    return replace(recipe, download=replace(download, mirror=mirror, cache=None))


def _runner(name: str, runs: Path) -> Runner:
    check("RUNNER", name, name in RUNNERS, ", ".join(RUNNERS))
    return processes.runner() if name == "process" else containers.runner(runs / ".cache")


def new_directory(runs: Path, name: str) -> Path:
    """A new directory for this run, also when several runs start in the same millisecond."""
    runs.mkdir(parents=True, exist_ok=True)
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S-%f")[:-3]
    for number in itertools.count(1):
        directory = runs.resolve() / f"{stamp}-{name}{f'-{number}' if number > 1 else ''}"
        with contextlib.suppress(FileExistsError):
            directory.mkdir()
            return directory
    raise AssertionError("counting does not end")


def _end(message: str, code: int, *, kind: str = "error") -> NoReturn:
    print(f"pipeline: {kind}: {as_line(message)}", file=sys.stderr)
    raise SystemExit(code)


if __name__ == "__main__":
    main()
