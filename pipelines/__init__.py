"""Wiring: the DAG, its recipes, where it runs, and the runner for a laptop."""

import signal
import sys

from model.training.preemption import leave

# `python -m pipelines.X` imports KFP for seconds: Ctrl-C meanwhile shows no traceback. `-m` is the
# program's name only as long as its module is being looked for.
if sys.argv[:1] == ["-m"] and signal.getsignal(signal.SIGINT) == signal.default_int_handler:
    signal.signal(signal.SIGINT, leave)
