"""A stage's command line in a fork of a process that has imported everything already.

Starting Python with torch takes seconds, and the tests start hundreds of stages. The child calls
`components.cli.main`, which is all that `python -m components.<stage>` does.
"""

import atexit
import importlib
import json
import math
import multiprocessing
import os
import sys
import time
from pathlib import Path

from components.cli import main

CONTEXT = multiprocessing.get_context("forkserver")
STAGES = ("sft", "pretrain", "dpo", "grpo", "merge", "evaluate", "download")
CONTEXT.set_forkserver_preload([*(f"components.{name}.stage" for name in STAGES), __name__])
ROOT = Path(__file__).parents[2]


def start(stage, config, *, output, errors=None, environment=None, patch=None, **paths):
    """A running process; what it prints goes to the file `output`, or in part to `errors`.

    It has the environment of this process, with the changes given.
    """
    arguments = [] if config is None else ["--config", json.dumps(config)]
    for flag, value in paths.items():
        values = value if isinstance(value, list) else [value]
        arguments += [f"--{flag.replace('_', '-')}", *map(str, values)]
    variables = {**os.environ, **(environment or {})}
    given = (stage, arguments, str(output), str(errors or output), variables, patch)
    process = CONTEXT.Process(target=_run, args=given)
    process.start()
    return process


def _run(stage, arguments, output, errors, environment, patch):
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(ROOT)
    for number, path in ((1, output), (2, errors)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1) for number in (1, 2))
    if patch is not None:
        patch()
    try:
        main(importlib.import_module(f"components.{stage}.stage").run, arguments)
    finally:
        atexit._run_exitfuncs()  # multiprocessing does not; temporary files are removed there


def finish(process, output, code=0):
    """Waits for the end and returns what was printed."""
    process.join(timeout=600)
    text = output.read_text()
    assert process.exitcode == code, f"exit code {process.exitcode}\n{text}"
    return text


def wait_for_steps(process, metrics, steps):
    """Until the metrics hold so many records, or the process has ended."""
    file = metrics / "metrics.jsonl"
    wait([process], lambda: file.exists() and file.read_bytes().count(b"\n") >= steps)


def wait(processes, reached, seconds=math.inf):
    """Until `reached()` is true or all processes have ended; False if that takes any longer."""
    end = time.monotonic() + seconds
    while any(process.is_alive() for process in processes) and not reached():
        if time.monotonic() > end:
            return False
        time.sleep(0.002)
    return True
