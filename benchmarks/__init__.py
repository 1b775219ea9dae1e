"""Side-by-side measurements: each file holds one kind of work, RESULTS.md the last tables."""

import signal
import sys

from model.training.preemption import leave

# As in `pipelines`: `python -m benchmarks` imports torch for seconds, in which Ctrl-C should show
# no traceback; a program that imports a benchmark is left alone.
if sys.argv[:1] == ["-m"] and signal.getsignal(signal.SIGINT) == signal.default_int_handler:
    signal.signal(signal.SIGINT, leave)
