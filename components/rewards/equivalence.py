"""Whether two mathematical expressions are equal, by math-verify, within fixed time and memory.

math-verify limits itself with a signal, which works in the main thread only and cannot interrupt a
huge power. Here it runs in a process of its own, which the kernel ends when a comparison takes too
long; the next comparison starts another.
"""

import atexit
import functools
import json
import os
import re
import select
import subprocess
import sys
import threading
import time
from pathlib import Path

WORKER = Path(__file__).with_name("equivalence_worker.py")
START_SECONDS = 120
LONGEST = 1_000
NUMBER = re.compile(r"-?\d{1,15}(\.\d{1,15})?", re.ASCII)  # read without asking: most references


class Equivalence:
    """Compares expressions; safe to call from any thread."""

    def __init__(self, *, seconds: float = 2.0, memory: int = 2 << 30) -> None:
        """`seconds` of processor time and `memory` bytes of address space for a comparison."""
        self.seconds, self.memory = seconds, memory
        self._lock = threading.Lock()
        self._worker: subprocess.Popen[bytes] | None = None
        self._readable: dict[str, bool] = {}

    def __call__(self, reference: str, answer: str) -> bool:
        """True when they are equal; False when not, or when finding out takes too much.

        An answer of over a thousand characters is no final answer, and False unread.

        Raises ValueError when the reference is no mathematical expression.
        """
        if len(answer) > LONGEST:
            return False
        with self._lock:
            verdict = self._ask([reference, answer])
        if verdict == "unreadable":
            raise ValueError(f"answer={reference!r}, allowed: a mathematical expression")
        return verdict == "right"

    def reads(self, reference: str) -> bool:
        """Whether math-verify finds an expression in a reference; remembered once found out.

        False too for one whose reading takes too much, to which no answer could be equal.
        """
        if NUMBER.fullmatch(reference):
            return True
        with self._lock:
            if reference not in self._readable:
                self._readable[reference] = self._ask([reference]) == "readable"
            return self._readable[reference]

    def close(self) -> None:
        """Ends the process, if there is one."""
        if self._worker:
            self._worker.kill()
            self._worker.communicate()
            self._worker = None

    def _ask(self, texts: list[str]) -> str | None:
        worker = self._worker = self._worker or self._start()
        assert worker.stdin
        worker.stdin.write(json.dumps(texts).encode() + b"\n")
        worker.stdin.flush()
        # Waiting may take longer than computing when the machine is busy.
        verdict = _line(worker, 20 * self.seconds)
        if verdict is None:
            self.close()
        return verdict

    def _start(self) -> subprocess.Popen[bytes]:
        worker = subprocess.Popen(
            [sys.executable, "-I", str(WORKER), str(self.seconds), str(self.memory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            # Each thread of OpenBLAS reserves address space, which is limited here.
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
        )
        if _line(worker, START_SECONDS) != "ready":
            worker.kill()
            worker.communicate()
            raise RuntimeError(f"math-verify does not start: python {WORKER.name} ended")
        return worker


@functools.cache
def shared() -> Equivalence:
    """The one comparer of this process, closed when the process ends."""
    comparer = Equivalence()
    atexit.register(comparer.close)
    return comparer


def _line(worker: subprocess.Popen[bytes], seconds: float) -> str | None:
    """The next line of JSON, or None when the process ends or the time is over."""
    assert worker.stdout
    poll = select.poll()
    poll.register(worker.stdout, select.POLLIN)
    deadline, text = time.monotonic() + seconds, b""
    while not text.endswith(b"\n"):
        ready = poll.poll(max(deadline - time.monotonic(), 0) * 1000)
        part = worker.stdout.read1(4096) if ready else b""  # type: ignore[attr-defined]
        if not part:
            return None
        text += part
    return json.loads(text)
