"""Runs every stage as a process of this machine, through KFP's local orchestrator.

`kfp.local` refuses to run container components as processes; this file alone replaces the handler
that refuses. `containers.py` runs the stages in containers.
"""

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from kfp import local
from kfp.local import status, subprocess_task_handler

from model.training.preemption import SIGNALS, Stopped, deferred

GRACE = 30.0  # seconds that a stage has to save, as a pod has
LIBC = ctypes.CDLL(None)
PR_SET_PDEATHSIG = 1
NAMES: dict[str, str] = {}
"""The display names of the pipeline's tasks by their keys, of which KFP tells no handler."""


class StageFailed(Exception):
    """A stage ended with an exit code other than 0; the message has the reason if it is known."""

    def __init__(self, stage: str, code: int, reason: str = "") -> None:
        super().__init__(f"stage {stage} failed with exit code {code}{reason and f': {reason}'}")
        self.code = 2 if code == 2 else 1


class ProcessHandler(subprocess_task_handler.SubprocessTaskHandler):
    """Runs a container's command in this environment; its output goes to the terminal."""

    def validate_image(self, image: str) -> None:
        """Accepts every image: none is started."""

    def validate_not_container_component(self, full_command: list[str]) -> None:
        """Accepts container components, which are all that this handler runs."""

    def run(self) -> status.Status:
        """Runs the command; raises StageFailed unless it ends with exit code 0."""
        stage = name_of(self.full_command)
        command = [sys.executable, *self.full_command[1:]]
        # The record would name an image in which the stage did not run.
        environment = {name: value for name, value in os.environ.items() if name != "IMAGE"}
        started = announce(stage)
        code = self.follow(stage, command, {**environment, **self.env_vars})
        if code:
            raise StageFailed(stage, code)
        conclude(stage, started)
        return status.Status.SUCCESS

    def follow(self, stage: str, command: list[str], environment: dict[str, str]) -> int:
        """Runs the command to its end and returns its exit code."""
        return follow(stage, command, environment)


def name_of(command: list[str]) -> str:
    """The display name of the task that a stage's command belongs to, else the stage's own name.

    The directory of the executor's output has the task's key.
    """
    stage = command[2].removeprefix("components.")
    if "--executor-input" not in command:
        return stage
    output = json.loads(command[command.index("--executor-input") + 1])["outputs"]["outputFile"]
    return NAMES.get(Path(output).parent.name, stage)


def runner() -> local.SubprocessRunner:
    """Replaces KFP's handler and returns the runner that uses ours."""
    subprocess_task_handler.SubprocessTaskHandler = ProcessHandler
    return local.SubprocessRunner(use_venv=False)


def follow(
    stage: str,
    command: list[str],
    environment: dict[str, str],
    watch: Callable[[subprocess.Popen[bytes]], None] | None = None,
) -> int:
    """Runs a command, which never outlives this process, and returns its exit code.

    `watch` is called with the running process, and returns when it wants no more of it. The
    process has a session of its own: Ctrl-C reaches this process alone, which then stops the stage.
    """
    process = None
    try:
        with deferred():
            process = subprocess.Popen(
                command, env=environment, start_new_session=True, preexec_fn=_begin
            )
        if watch is not None:
            watch(process)
        return process.wait()
    except Stopped:
        if process is not None:
            say_stopping(stage)
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(GRACE)
        raise
    finally:
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # with every process that it left running
            process.wait()


def _begin() -> None:
    """Unblocks the signals in the child, and asks for SIGTERM when this process dies."""
    if sys.platform == "linux":
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def say_stopping(stage: str) -> None:
    """Says why the run does not end at once: a stage may still save."""
    text = f"stopping {stage}, which has {GRACE:.0f} s to save; once more ends it at once"
    print(f"pipeline: {text}", file=sys.stderr, flush=True)


def announce(stage: str) -> float:
    """Prints the heading of a stage's output; returns the time in seconds."""
    sys.stdout.write(f"\n=== {stage}\n")
    sys.stdout.flush()
    return time.monotonic()


def conclude(stage: str, started: float) -> None:
    """Prints the end of a stage's output, with the seconds since `started`."""
    sys.stdout.write(f"=== {stage} finished in {time.monotonic() - started:.1f} s\n")
    sys.stdout.flush()
