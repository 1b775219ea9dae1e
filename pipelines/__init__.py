"""The DAG, its recipes and placements, and the programs that compile, run and submit it."""

import signal
import sys

from model.training.preemption import leave

# `python -m pipelines.X` imports KFP for seconds, in which Ctrl-C should show no traceback. argv[0]
# is `-m` while Python still looks for the module, so a program that imports this one is left alone.
if sys.argv[:1] == ["-m"] and signal.getsignal(signal.SIGINT) == signal.default_int_handler:
    signal.signal(signal.SIGINT, leave)
