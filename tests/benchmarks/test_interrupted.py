"""Ctrl-C ends `python -m benchmarks` and the processes that it started, with one line."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT


def children(process):
    text = Path(f"/proc/{process}/task/{process}/children").read_text()
    return [int(number) for number in text.split()]


@pytest.mark.parametrize("wait", [0.0, 1.0])
def test_one_line_and_130(wait):
    """While torch is imported, and while a benchmark runs in a process of its own."""
    before = (ROOT / "benchmarks" / "RESULTS.md").read_bytes()
    command = [sys.executable, "-m", "benchmarks", "margins", "packing", "--device", "cpu"]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        started = []
        loaded = Path(f"/proc/{process.pid}/maps")
        while not (started if wait else "site-packages" in loaded.read_text()):
            assert process.poll() is None
            time.sleep(0.01)
            started = children(process.pid)
        time.sleep(wait)
        os.kill(process.pid, signal.SIGINT)
        errors = process.communicate()[1]
    assert process.returncode == 130
    assert errors.splitlines() in (["benchmarks: stopped: by SIGINT"], ["stopped: by SIGINT"])
    assert not any(Path(f"/proc/{number}").exists() for number in started)
    assert (ROOT / "benchmarks" / "RESULTS.md").read_bytes() == before
