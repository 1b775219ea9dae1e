"""Whether two mathematical expressions are equal, by math-verify, within fixed time and memory.

math-verify limits its time by a signal, which works in the main thread only and cannot interrupt
the computation of a huge power. Here it runs in a process of its own (`equivalence_worker`), which
the kernel ends when a comparison takes too long. The next comparison starts a new process.
"""

import atexit
import functools
import json
import re
import select
import subprocess
import sys
import threading
import time
from pathlib import Path

from model.options import check

WORKER = Path(__file__).with_name("equivalence_worker.py")
START_SECONDS = 120  # for imports of SymPy and ANTLR on a busy machine
PATIENCE = 20  # a comparison's wall-clock time over its processor time, on a busy machine
LONGEST = 1_000  # characters of an answer that is compared
# Most references are plain numbers, which are readable without asking the worker.
NUMBER = re.compile(r"-?\d{1,15}(\.\d{1,15})?", re.ASCII)


class Equivalence:
    """Compares expressions, one at a time; may be called from any thread."""

    def __init__(self, *, seconds: float = 2.0, memory: int = 2 << 30) -> None:
        """A comparison may take `seconds` of processor time and `memory` bytes of address space."""
        self.seconds, self.memory = seconds, memory
        self._lock = threading.Lock()
        self._worker: subprocess.Popen[bytes] | None = None
        self._readable: dict[str, bool] = {}

    def __call__(self, reference: str, answer: str) -> bool:
        """Whether they are equal; False as well if the comparison takes too much time or memory.

        An answer of over 1000 characters is not a final answer: it is False and not even read.
        Raises ValueError if the reference is not a mathematical expression.
        """
        if len(answer) > LONGEST:
            return False
        with self._lock:
            verdict = self._ask([reference, answer])
        check("answer", reference, verdict != "unreadable", "a mathematical expression")
        return verdict == "right"

    def reads(self, reference: str) -> bool:
        """Whether math-verify can read a reference; the result is cached.

        False as well if reading it takes too much time or memory, since no answer could be
        compared with it.
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
        verdict = _next_line(worker, PATIENCE * self.seconds)
        if verdict is None:
            self.close()
        return verdict

    def _start(self) -> subprocess.Popen[bytes]:
        worker = subprocess.Popen(
            [sys.executable, "-I", str(WORKER), str(self.seconds), str(self.memory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            # No secrets for a process that parses hostile text. Each thread of OpenBLAS reserves
            # address space, of which the worker has little.
            env={"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
        )
        if _next_line(worker, START_SECONDS) != "ready":
            worker.kill()
            worker.communicate()
            raise RuntimeError(f"math-verify does not start: python {WORKER.name} ended")
        return worker


@functools.cache
def shared() -> Equivalence:
    """The instance that all of this process shares, closed when the process ends."""
    instance = Equivalence()
    atexit.register(instance.close)
    return instance


def _next_line(worker: subprocess.Popen[bytes], seconds: float) -> str | None:
    """The worker's next line of JSON, or None if it ends before or takes more than `seconds`."""
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
