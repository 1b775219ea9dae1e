"""Processes that a benchmark starts, and that end with it.

Each has a session of its own, so that Ctrl-C reaches the benchmarks alone, which end the rest.
"""

import contextlib
import os
import signal
import subprocess
from collections.abc import Sequence
from typing import Any

from model.training.preemption import SIGNALS, deferred

RUNNING: set[subprocess.Popen] = set()


def run(command: Sequence[str], **options: Any) -> int:
    """The exit code of a command; `options` are those of Popen."""
    with deferred():
        process = subprocess.Popen(command, start_new_session=True, preexec_fn=_unblock, **options)
        RUNNING.add(process)
    try:
        return process.wait()
    finally:
        _end(process)


def end_all() -> None:
    """Kills what is still running, with the processes that it started."""
    for process in list(RUNNING):
        _end(process)


def _end(process: subprocess.Popen) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    RUNNING.discard(process)


def _unblock() -> None:
    """In the child: the signals reach it again, although it was started while they waited."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
