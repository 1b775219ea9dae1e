"""Tells the stage of this container to save its state, and waits until it has ended.

Kubernetes runs this as the preStop hook of a pod that is to go. Without it the signal ends at KFP's
launcher, and the stage is killed a quarter of a second later; with it a stage has the whole grace
period. `manifests/kfp` gives every pod the hook. Standard library only, so that it starts at once.
"""

import os
import re
import signal
import time
from pathlib import Path

STAGE = re.compile(rb"python[\d.]*\x00-m\x00components\.\w+\x00")
PROCESSES = Path("/proc")
POLL = 0.1  # seconds


def stages(processes: Path = PROCESSES) -> list[int]:
    """The ids of the processes `python -m components.*`, this one and their own children left out.

    Workers that a stage has forked bear its command line, and are the stage's to end.
    """
    parents = {}
    for folder in processes.glob("[0-9]*"):
        try:
            command, status = (folder / "cmdline").read_bytes(), (folder / "stat").read_text()
        except OSError:
            continue  # it has ended meanwhile
        state, parent = status.rpartition(")")[2].split()[:2]
        if STAGE.search(command) and state != "Z" and int(folder.name) != os.getpid():
            parents[int(folder.name)] = int(parent)
    return sorted(process for process, parent in parents.items() if parent not in parents)


def main(processes: Path = PROCESSES) -> None:
    """Signals and waits. Kubernetes ends this too when the grace period is over."""
    running = stages(processes)
    for process in running:
        try:
            os.kill(process, signal.SIGTERM)
        except ProcessLookupError:
            continue
        print(f"prestop: process {process} was told to save its state", flush=True)
    while set(running) & {*stages(processes)}:
        time.sleep(POLL)


if __name__ == "__main__":
    main()
