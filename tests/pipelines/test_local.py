"""Runs that are ended by a signal, start together, or may not write: real processes."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipelines import local, processes
from tests.conftest import ROOT

SAVING = ("pretrain.checkpoint_uri={root}/kept", "pretrain.checkpoint_steps=2")


class Run:
    """`python -m pipelines.local`, with a directory for temporary files and a mark of its own."""

    def __init__(self, root, *settings):
        self.root, self.mark = root, f"MARK={uuid.uuid4().hex}"
        (root / "temporary").mkdir()
        command = [sys.executable, "-m", "pipelines.local", "--runs", str(root / "runs")]
        command += [f"--set={setting.format(root=root)}" for setting in settings]
        name, value = self.mark.split("=")
        environment = {**os.environ, name: value, "TMPDIR": str(root / "temporary")}
        self.output = (root / "output").open("w+")
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=self.output, stderr=subprocess.STDOUT
        )

    def text(self):
        return (self.root / "output").read_text()

    def wait_until(self, holds):
        """Until a condition holds; fails with the output where the run ends before."""
        while not holds():
            assert self.process.poll() is None, self.text()
            time.sleep(0.02)

    def alive(self):
        """The processes that carry the mark: the run, its stages, and what those started."""
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            try:
                environment = (path / "environ").read_bytes().split(b"\0")
                is_zombie = " Z " in (path / "stat").read_text()
            except OSError:
                continue
            if self.mark.encode() in environment and not is_zombie:
                found.append(int(path.name))
        return found

    def ended(self, code):
        """Checks the exit code, that one line says why, and that nothing is left behind."""
        assert self.process.wait(90) == code, self.text()
        assert not self.alive()
        left = [path.name for path in (self.root / "temporary").iterdir()]
        assert all(name.startswith("torchinductor_") for name in left), left  # torch's own cache
        assert "Traceback" not in self.text()
        (line,) = [x for x in self.text().splitlines() if x.startswith("pipeline: stopped: ")]
        assert "what it wrote is in" in line
        return line


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_the_run_and_its_stage(tmp_path, number):
    run = Run(tmp_path)
    run.wait_until(lambda: "=== preflight" in run.text() and len(run.alive()) == 2)
    time.sleep(0.5)
    run.process.send_signal(number)
    assert f"by {number.name}" in run.ended(128 + number)
    assert not (tmp_path / "runs" / "latest").exists()


@pytest.mark.parametrize("program", ["local", "compiler", "submit"])
def test_interrupted_while_it_starts(tmp_path, program):
    """Ctrl-C in the seconds in which KFP is imported shows no traceback."""
    command = [sys.executable, "-m", f"pipelines.{program}", "--help"]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        loaded = Path(f"/proc/{process.pid}/maps")
        while "site-packages" not in loaded.read_text():  # the first library of others
            assert process.poll() is None
            time.sleep(0.005)
        process.send_signal(signal.SIGINT)
        errors = process.communicate()[1]
    assert errors == "stopped: by SIGINT\n" and process.returncode == 130


def test_the_stage_saves_first(tmp_path):
    run = Run(tmp_path, *SAVING)
    run.wait_until(lambda: list(tmp_path.glob("kept/*/step-*/.manifest.json")))
    run.process.terminate()
    run.ended(143)
    assert "is saved; the same command goes on from there" in run.text()


def test_a_run_that_is_killed_takes_its_stage_with_it(tmp_path):
    run = Run(tmp_path)
    run.wait_until(lambda: "=== preflight" in run.text() and len(run.alive()) == 2)
    run.process.kill()
    run.process.wait()
    for _ in range(1000):
        if not run.alive():
            return
        time.sleep(0.02)
    raise AssertionError(f"still there: {run.alive()}")


def test_a_stage_that_does_not_stop_is_killed(tmp_path):
    """The second signal does not wait for the rest of the time to save."""
    script = """
import sys
from pathlib import Path
from model.training.preemption import stoppable
from pipelines import processes
ignoring = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
ignoring += "print('up', flush=True); time.sleep(600)"
with stoppable():
    processes.follow("it", [sys.executable, "-c", ignoring], {})
"""
    with subprocess.Popen(
        [sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout.readline() == b"up\n"
        process.terminate()
        assert b"stopping it" in process.stderr.readline()
        started = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.stdout.read() == b"" and time.monotonic() - started < 10
    assert process.returncode != 0


def test_a_stage_goes_by_its_display_name(monkeypatch):
    """Where its task has one; the executor's output has the task's key."""
    monkeypatch.setitem(processes.NAMES, "merge-2", "merge grpo")

    def command(key):
        executor = {"inputs": {}, "outputs": {"outputFile": f"/runs/artifacts/run/{key}/out.json"}}
        return ["python", "-m", "components.merge", "--executor-input", json.dumps(executor)]

    assert processes.name_of(command("merge-2")) == "merge grpo"
    assert processes.name_of(command("merge-9")) == "merge"
    assert processes.name_of(command("merge-2")[:3]) == "merge"


def test_directories_of_runs_that_start_together(tmp_path):
    """Many within the same millisecond, each with one of its own."""
    together = threading.Barrier(8)

    def make(_):
        together.wait()
        return local.new_directory(tmp_path / "runs", "grpo-seed0")

    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(make, range(8 * 50)))
    assert len(set(made)) == 8 * 50 == len(list((tmp_path / "runs").iterdir()))


WITHOUT = ("setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs")


def start(runs, *prefix):
    command = [*prefix, sys.executable, "-m", "pipelines.local", "--runs", str(runs)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def one_line(done, code, *words):
    assert done.returncode == code, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("pipeline: error: ")
    for word in words:
        assert word in line


@pytest.mark.parametrize("below", ["", "below/it"])
def test_runs_may_not_be_written(tmp_path, below):
    """Root, too, may not once it has given its capabilities up."""
    runs = tmp_path / "runs"
    runs.mkdir(mode=0o555)
    done = start(runs / below, *(WITHOUT if os.geteuid() == 0 else ()))
    one_line(done, 1, str(runs), "Permission denied")


def test_runs_is_a_file(tmp_path):
    (tmp_path / "runs").write_text("precious")
    one_line(start(tmp_path / "runs"), 2, "RUNS=", "runs", "a directory")
    one_line(start(tmp_path / "runs" / "below"), 1, "runs/below", "Not a directory")


def test_runs_is_too_long(tmp_path):
    one_line(start(tmp_path / ("x" * 300)), 1, "File name too long")


def test_latest_is_a_directory_of_a_person(tmp_path):
    (tmp_path / "latest").mkdir()
    one_line(start(tmp_path), 2, "RUNS=", "latest is a link")
