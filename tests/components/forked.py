"""A stage's command line in a fork of a process that has imported everything already.

Starting Python with torch takes seconds, and the tests of resuming start dozens of runs. The child
calls `components.cli.main`, which is all that `python -m components.<stage>` does.
"""

import importlib
import json
import multiprocessing
import os
import sys
import time

from components.cli import main

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["components.sft.stage", "components.pretrain.stage", __name__])


def start(stage, config, *, output, environment=None, patch=None, **paths):
    """A running process; what it prints goes to the file `output`."""
    arguments = ["--config", json.dumps(config)]
    for flag, path in paths.items():
        arguments += [f"--{flag}", str(path)]
    given = (stage, arguments, str(output), environment or {}, patch)
    process = CONTEXT.Process(target=_run, args=given)
    process.start()
    return process


def _run(stage, arguments, output, environment, patch):
    os.environ.update(environment)
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.stdout = sys.stderr = os.fdopen(1, "w", buffering=1)
    if patch is not None:
        patch()
    main(importlib.import_module(f"components.{stage}.stage").run, arguments)


def finish(process, output, code=0):
    """Waits for the end and returns what was printed."""
    process.join(timeout=600)
    text = output.read_text()
    assert process.exitcode == code, f"exit code {process.exitcode}\n{text}"
    return text


def wait_for_steps(process, metrics, steps):
    """Until the metrics hold so many records, or the process has ended."""
    file = metrics / "metrics.jsonl"
    while process.is_alive():
        if file.exists() and file.read_bytes().count(b"\n") >= steps:
            return
        time.sleep(0.002)
