"""Every stage a process of this machine, through KFP's local orchestrator.

`kfp.local` refuses container components in processes; the handler that refuses is replaced here,
and nowhere else. Containers are in `containers.py`.
"""

import os
import subprocess
import sys
import time

from kfp import local
from kfp.local import status, subprocess_task_handler


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
        code = subprocess.run(command, env={**around, **self.env_vars}, check=False).returncode
        if code:
            raise StageFailed(stage, code)
        conclude(stage, started)
        return status.Status.SUCCESS


def runner() -> local.SubprocessRunner:
    """Puts the handler in the place of KFP's and returns the runner that uses it."""
    subprocess_task_handler.SubprocessTaskHandler = ProcessHandler
    return local.SubprocessRunner(use_venv=False)


def announce(stage: str) -> float:
    """Heads a stage's output; returns when that was."""
    sys.stdout.write(f"\n=== {stage}\n")
    sys.stdout.flush()
    return time.monotonic()


def conclude(stage: str, started: float) -> None:
    """Closes a stage's output with the seconds since `started`."""
    sys.stdout.write(f"=== {stage} finished in {time.monotonic() - started:.1f} s\n")
    sys.stdout.flush()
