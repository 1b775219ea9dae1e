"""The preStop hook: the stage of a container is told to stop, and the hook waits for its end."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from components import prestop
from tests.conftest import ROOT

STAGE = """
import multiprocessing, signal, sys, time
def save(*_):
    time.sleep(1.0)
    print("saved", flush=True)
    sys.exit(143)
worker = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,), daemon=True)
worker.start()
signal.signal(signal.SIGTERM, save)
print("begun", flush=True)
time.sleep(60)
"""


@pytest.fixture
def stage(tmp_path):
    """A process `python -m components.hooked` with a worker of the same command line."""
    (tmp_path / "components").mkdir()
    (tmp_path / "components" / "hooked.py").write_text(STAGE)
    process = subprocess.Popen(
        [sys.executable, "-m", "components.hooked"],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"]},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "begun\n"
    yield process
    if process.poll() is None:
        process.kill()
        process.wait()


def hook(processes):
    """The hook in a process of its own that sees these processes alone."""
    code = "import sys; from pathlib import Path; from components import prestop; "
    code += "prestop.main(Path(sys.argv[1]))"
    command = [sys.executable, "-c", code, processes]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.fixture
def container(stage, tmp_path):
    """The stage and its worker as the processes of a container: links into /proc."""
    folder = tmp_path / "proc"
    folder.mkdir()
    children = Path(f"/proc/{stage.pid}/task/{stage.pid}/children")
    for process in [stage.pid, *map(int, children.read_text().split())]:
        (folder / str(process)).symlink_to(f"/proc/{process}")
    return folder


def test_the_stage_saves_before_the_hook_ends(stage, container):
    begun = time.monotonic()
    done = hook(container)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"prestop: process {stage.pid} was told to save its state\n"
    assert time.monotonic() - begun >= 1.0
    assert stage.wait(5) == 143 and stage.stdout.read() == "saved\n"


def test_workers_of_a_stage_are_not_told(stage, container):
    assert len(list(container.iterdir())) == 2
    assert prestop.stages(container) == [stage.pid]


def test_a_pod_without_a_stage(tmp_path):
    done = hook(tmp_path)
    assert done.returncode == 0 and done.stdout == done.stderr == ""


def test_a_stage_that_has_ended_is_not_waited_for(stage, container):
    stage.send_signal(signal.SIGKILL)
    time.sleep(0.2)  # a zombie until it is waited for, as under a launcher that is busy
    assert stage.pid not in prestop.stages(container)
