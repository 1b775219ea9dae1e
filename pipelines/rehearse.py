"""Rehearses a recipe on this machine: every stage for two steps, a kill, and a table of their cost.

Random weights of the base's shape and made-up rows go through the real graph and the stages' real
command lines, by the local runner. One training stage is killed after its first checkpoint and
started again. `rehearse_recipe` says what is changed in the recipe.
"""

import argparse
import itertools
import json
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import torch
from kfp import local
from kfp.local import subprocess_task_handler

from components import artifact
from components.failure import as_line, explain
from components.preflight.config import Recipe
from model.options import check
from model.training.preemption import Stopped, stoppable
from pipelines import local as runs
from pipelines import plan_base, rehearse_judge, rehearse_recipe, rehearse_rows
from pipelines.overrides import choose
from pipelines.plan import table
from pipelines.processes import ProcessHandler, StageFailed, follow
from pipelines.rehearse_recipe import STEPS

PAUSE = 0.02  # seconds between two looks at a running stage
VICTIMS = ("sft", "pretrain", "grpo", "dpo")  # the first that the recipe has is killed
GIB = 1 << 30
PAGE = "rehearsal.md"


@dataclass
class Cost:
    """What one start of a stage took."""

    stage: str
    seconds: float = 0.0
    memory: int = 0
    """Bytes at most: allocated on a GPU, or resident in the stage's own process."""
    tokens_per_second: float | None = None
    mfu: float | None = None
    note: str = ""


@dataclass
class Rehearsal:
    """The costs so far, and which stage is still to be killed."""

    victim: str
    checkpoints: Path
    costs: list[Cost] = field(default_factory=list)
    is_killed: bool = False

    def run(self, stage: str, command: list[str], environment: dict[str, str]) -> int:
        """Runs a stage to its end; the victim is killed first, and then goes on."""
        if stage == self.victim and not self.is_killed:
            self._kill(stage, command, environment)
        cost = Cost(stage)
        started = time.perf_counter()
        code = follow(stage, command, environment, lambda process: _watch(process, cost))
        cost.seconds = time.perf_counter() - started
        self.costs.append(cost)
        if code == 0:
            self._read(cost, command)
        return code

    def _kill(self, stage: str, command: list[str], environment: dict[str, str]) -> None:
        """Kills the stage when its first checkpoint is complete. Raises StageFailed otherwise."""
        cost, started = Cost(stage, note="killed after step 1"), time.perf_counter()

        def watch(process: subprocess.Popen[bytes]) -> None:
            saved = f"{stage}-*/step-00000001/.manifest.json"
            while process.poll() is None and not any(self.checkpoints.glob(saved)):
                time.sleep(PAUSE)
            cost.memory = _resident(process.pid)
            process.kill()

        code = follow(stage, command, environment, watch)
        if code != -signal.SIGKILL:
            raise StageFailed(stage, code, "it ended before it could be killed")
        cost.seconds = time.perf_counter() - started
        self.costs.append(cost)
        self.is_killed = True
        print(f"rehearse: {stage} is killed after its first checkpoint, and goes on", flush=True)

    def _read(self, cost: Cost, command: Sequence[str]) -> None:
        """The figures of a stage's own outputs. Raises StageFailed unless all steps are there."""
        paths = dict(itertools.pairwise(command))
        if cost.stage in VICTIMS:
            lines = (Path(paths["--metrics"]) / artifact.METRICS).read_text().splitlines()
            self._training(cost, [json.loads(line) for line in lines])
        if cost.stage == "evaluate":
            results = json.loads((Path(paths["--evaluation"]) / "results.json").read_text())
            cost.tokens_per_second = results["throughput"]["tokens_per_second"]

    def _training(self, cost: Cost, records: list[dict[str, Any]]) -> None:
        steps = [record["step"] for record in records]
        if steps != [*range(1, STEPS + 1)]:
            raise StageFailed(cost.stage, 1, f"its log has the steps {steps}")
        last = records[-1]  # the first step warms up
        cost.tokens_per_second, cost.mfu = last["tokens_per_second"], last.get("mfu")
        if torch.cuda.is_available() and "peak_memory_bytes" in last:
            cost.memory = last["peak_memory_bytes"]
        if cost.stage == self.victim:
            cost.note = "went on from step 1"


def _watch(process: "subprocess.Popen[bytes]", cost: Cost) -> None:
    while process.poll() is None:
        cost.memory = max(cost.memory, _resident(process.pid))
        time.sleep(PAUSE)


def _resident(process: int) -> int:
    """Most bytes that a process has held so far, 0 where it is gone."""
    with suppress(OSError):
        for line in Path(f"/proc/{process}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0


def rehearse(recipe: Recipe, directory: Path, scale: float) -> list[Cost]:
    """Runs the recipe's rehearsal below `directory`; the cost of each start of a stage.

    Raises StageFailed where a stage fails, or ends before it could be killed.
    """
    base = plan_base.read(recipe.download)
    with rehearse_judge.judge() as url:
        small = rehearse_recipe.rehearsed(recipe, base, scale, directory / "data", url)
        (directory / "data").mkdir()
        rehearse_rows.write(directory / "data", small)
        victim = next(name for name in VICTIMS if _is_run(small, name))
        rehearsal = Rehearsal(victim, directory / "data" / "checkpoints")
        runs.run(small, directory, _runner(rehearsal))
    return rehearsal.costs


def _is_run(recipe: Recipe, stage: str) -> bool:
    other = stage in ("dpo", "grpo") and stage != recipe.preference
    return getattr(recipe, stage) is not None and not other


def _runner(rehearsal: Rehearsal) -> local.SubprocessRunner:
    class Handler(ProcessHandler):
        def follow(self, stage: str, command: list[str], environment: dict[str, str]) -> int:
            module = command[2].removeprefix("components.")  # `stage` is a name for people
            return rehearsal.run(module, command, environment)

    subprocess_task_handler.SubprocessTaskHandler = Handler
    return local.SubprocessRunner(use_venv=False)


def page(name: str, scale: float, costs: Sequence[Cost]) -> str:
    """The table of a rehearsal, as Markdown."""
    head = ("stage", "seconds", "peak memory, GiB", "tokens/s", "MFU", "")
    lines = ["| " + " | ".join(row) + " |" for row in (head, *map(_row, costs))]
    lines.insert(1, "|---|" + "---|" * (len(head) - 1))
    where = device()
    seconds = sum(cost.seconds for cost in costs)
    title = f"# Rehearsal of {name}, scale {scale:g}\n\n{where}; {seconds:.0f} s in all.\n"
    return "\n".join([title, *lines]) + "\n"


def _row(cost: Cost) -> tuple[str, ...]:
    speed = "" if cost.tokens_per_second is None else f"{cost.tokens_per_second:,.0f}"
    mfu = "" if cost.mfu is None else f"{cost.mfu:.1%}"
    return (
        cost.stage,
        f"{cost.seconds:.1f}",
        f"{cost.memory / GIB:.2f}",
        speed,
        mfu,
        cost.note,
    )


def device() -> str:
    """The card, or the number of threads of a CPU."""
    if torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    return f"CPU, {torch.get_num_threads()} threads"


def main() -> None:
    """The command line behind `make rehearse`; exit codes as `pipelines.local` has them."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.rehearse", description=__doc__)
    parser.add_argument("recipe", help="a recipe of pipelines/recipes.py")
    parser.add_argument("--preference", default="grpo")
    parser.add_argument("--scale", default="1", help="of widths, layers, lengths and ranks, to 1")
    parser.add_argument("--runs", type=Path, default=Path(".runs"), metavar="DIR")
    parser.add_argument("--set", action="append", default=[], metavar="STAGE.FIELD=VALUE")
    options = parser.parse_args()
    try:
        with stoppable():
            _rehearse(options)
    except Stopped as notice:
        _end(f"stopped: {notice}", notice.code)
    except StageFailed as error:
        _end(f"error: {error}", error.code)
    except ValueError as error:
        _end(f"error: {error}", 2)
    except OSError as error:
        _end(f"error: {explain(error)}", 1)


def _rehearse(options: argparse.Namespace) -> None:
    scale = _scale(options.scale)
    recipe = choose(options.recipe, preference=options.preference, settings=options.set)
    is_folder = options.runs.is_dir() or not options.runs.exists()
    check("RUNS", str(options.runs), is_folder, "a directory")
    directory = runs.new_directory(options.runs, f"rehearsal-{options.recipe}")
    costs = rehearse(recipe, directory, scale)
    text = page(options.recipe, scale, costs)
    (directory / PAGE).write_text(text)
    head = ("stage", "seconds", "peak GiB", "tokens/s", "MFU", "")
    print(f"\n{table([head, *map(_row, costs)])}\n\n{device()}\n{directory / PAGE}")


def _scale(text: str) -> float:
    try:
        scale = float(text)
    except ValueError:
        scale = 0.0
    check("SCALE", text, 0.01 <= scale <= 1, "0.01 to 1")
    return scale


def _end(message: str, code: int) -> NoReturn:
    print(f"rehearse: {as_line(message)}", file=sys.stderr)
    raise SystemExit(code)


if __name__ == "__main__":
    main()
