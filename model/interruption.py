"""Preemption: SIGTERM is noticed and training stops between two passes, so that it can save.

Standard library only. Saving is the loop's, the exit code the command line's.
"""

import signal
from types import FrameType, TracebackType
from typing import Self

EXIT_CODE = 143  # 128 + SIGTERM, as a shell reports it; the pipeline starts the stage again


class Preempted(Exception):
    """The process was told to stop and did; the message says from where it goes on."""


class Interruption:
    """Within the block SIGTERM sets `asked` instead of ending the process."""

    def __init__(self) -> None:
        self.asked = False

    def __enter__(self) -> Self:
        self.before = signal.signal(signal.SIGTERM, self._notice)
        return self

    def _notice(self, number: int, frame: FrameType | None) -> None:
        self.asked = True

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        signal.signal(signal.SIGTERM, self.before)
