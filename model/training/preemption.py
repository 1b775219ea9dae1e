"""Signals: training notices SIGTERM and stops between two passes, so that it can save.

Every other process ends where it is, by an exception, so that open files are closed and temporary
ones deleted. Standard library only. The loop saves, the command line sets the exit code.
"""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Self

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
EXIT_CODE = 143  # 128 + SIGTERM, as a shell reports it; the pipeline starts the stage again


class Preempted(Exception):
    """The process was told to stop, and did. The message says where the next one goes on."""

    code = EXIT_CODE


class Stopped(BaseException):
    """The process was told to end by the signal `number`, and does so at once."""

    def __init__(self, number: int) -> None:
        super().__init__(f"by {signal.Signals(number).name}")
        self.code = 128 + number  # as a shell reports it


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """Within the block SIGTERM, SIGINT and SIGHUP raise Stopped, unless nohup has them ignored."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    before = {n: handler for n, handler in before.items() if handler not in (None, signal.SIG_IGN)}
    for number in before:
        signal.signal(number, _stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Within the block signals wait, so that a process started there is known when they come."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def leave(number: int, frame: FrameType | None) -> None:
    """Ends at once, during slow imports: a module being imported might swallow an exception."""
    print(f"stopped: by {signal.Signals(number).name}", file=sys.stderr, flush=True)
    os._exit(128 + number)


def _stop(number: int, frame: FrameType | None) -> None:
    raise Stopped(number)


class Interruption:
    """Within the block SIGTERM sets `is_requested` instead of ending the process."""

    def __init__(self) -> None:
        self.is_requested = False

    def __enter__(self) -> Self:
        self.before = signal.signal(signal.SIGTERM, self._notice)
        return self

    def _notice(self, number: int, frame: FrameType | None) -> None:
        self.is_requested = True

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        signal.signal(signal.SIGTERM, self.before)
