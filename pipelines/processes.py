"""Every stage a process of this machine, through KFP's local orchestrator.

`kfp.local` refuses container components in processes; the handler that refuses is replaced here,
and nowhere else. Containers are in `containers.py`.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time

from kfp import local
from kfp.local import status, subprocess_task_handler

from model.training.preemption import SIGNALS, Stopped, deferred

GRACE = 30.0  # seconds that a stage has to save, as a pod has
LIBC = ctypes.CDLL(None)
PR_SET_PDEATHSIG = 1


class StageFailed(Exception):
    """A stage that ended with another exit code than 0, with the reason where one is known."""

    def __init__(self, stage: str, code: int, reason: str = "") -> None:
        super().__init__(f"stage {stage} failed with exit code {code}{reason and f': {reason}'}")
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
        # A process is not in an image, whichever one IMAGE names for containers.
        around = {name: value for name, value in os.environ.items() if name != "IMAGE"}
        started = announce(stage)
        code = _follow(stage, command, {**around, **self.env_vars})
        if code:
            raise StageFailed(stage, code)
        conclude(stage, started)
        return status.Status.SUCCESS


def runner() -> local.SubprocessRunner:
    """Puts the handler in the place of KFP's and returns the runner that uses it."""
    subprocess_task_handler.SubprocessTaskHandler = ProcessHandler
    return local.SubprocessRunner(use_venv=False)


def _follow(stage: str, command: list[str], environment: dict[str, str]) -> int:
    """The exit code of a command, which has a session of its own and never outlives this process.

    So Ctrl-C in a terminal reaches this process alone, which then tells the stage.
    """
    process = None
    try:
        with deferred():
            process = subprocess.Popen(
                command, env=environment, start_new_session=True, preexec_fn=_begin
            )
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
                os.killpg(process.pid, signal.SIGKILL)  # and what it may have left running
            process.wait()


def _begin() -> None:
    """In the child: signals reach it again, one of them when this process is killed."""
    if sys.platform == "linux":
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def say_stopping(stage: str) -> None:
    """Says for what the run still waits after it was told to stop."""
    text = f"stopping {stage}, which has {GRACE:.0f} s to save; once more ends it at once"
    print(f"pipeline: {text}", file=sys.stderr, flush=True)


def announce(stage: str) -> float:
    """Heads a stage's output; returns when that was."""
    sys.stdout.write(f"\n=== {stage}\n")
    sys.stdout.flush()
    return time.monotonic()


def conclude(stage: str, started: float) -> None:
    """Closes a stage's output with the seconds since `started`."""
    sys.stdout.write(f"=== {stage} finished in {time.monotonic() - started:.1f} s\n")
    sys.stdout.flush()
