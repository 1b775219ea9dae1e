"""A stage that a cluster starts again: what would fail again ends at once, and nothing else."""

import json
import os
import signal
import time

import pytest

from components.artifact import METRICS
from components.session import attempts
from components.session.attempts import DEATHS
from model import checkpoint, diffusion
from tests.components.forked import finish, start, wait_for_steps
from tests.components.session.runs import ADAPTED

CLUSTER = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "IMAGE": "registry/llada@sha256:1"}
TOO_SHORT = {**ADAPTED, "max_length": 4}
AGAIN = "(as in an earlier attempt; delete "


class Task:
    """A task of a pipeline: all its attempts have the same outputs."""

    def __init__(self, root, downloaded):
        self.root, self.downloaded, self.count = root, downloaded, 0
        self.uri = str(root / "kept")

    def start(self, config, patch=None, **environment):
        self.count += 1
        self.output = self.root / f"output-{self.count}"
        return start(
            "sft",
            {"checkpoint_uri": self.uri, "checkpoint_steps": 5, **config},
            output=self.output,
            environment={**CLUSTER, **environment},
            patch=patch,
            base=self.downloaded / "model",
            dataset=self.downloaded / "dataset",
            trained=self.root / "trained",
            metrics=self.root / "metrics",
        )

    def attempt(self, config, code=0, **options):
        """Runs to its end; what it printed."""
        return finish(self.start(config, **options), self.output, code)

    def memories(self):
        return [json.loads(file.read_text()) for file in self.root.glob("kept/*/attempts.json")]


@pytest.fixture
def task(tmp_path, downloaded):
    return Task(tmp_path, downloaded)


def load_nothing():
    """Who loads the model does work that cannot help."""
    checkpoint.load = lambda *given, **options: os._exit(7)


def fail():
    """A mistake of ours in the eighth step; the newest state is of the fifth."""
    right, calls = diffusion.denoise, []

    def denoise(*given, **options):
        calls.append(None)
        if len(calls) == (16 if not os.environ.get("AGAIN") else 6):
            raise RuntimeError(f"a kernel failed{os.environ.get('AGAIN', '')}")
        return right(*given, **options)

    diffusion.denoise = denoise


def die():
    checkpoint.load = lambda *given, **options: os.kill(os.getpid(), signal.SIGKILL)


def test_bad_input_is_not_tried_twice(task):
    first = task.attempt(TOO_SHORT, 2)
    again = task.attempt(TOO_SHORT, 2, patch=load_nothing)
    (message,) = [line for line in first.splitlines() if "error: " in line]
    assert f"{message} {AGAIN}" in again and "Traceback" not in again
    anew = task.attempt(TOO_SHORT, 2, IMAGE="registry/llada@sha256:2")
    assert message in anew and AGAIN not in anew
    task.attempt({**ADAPTED, "steps": 2})


def test_an_error_that_comes_twice_without_progress_is_the_last(task):
    """The first from step 0 to step 5 has gained something; the second has not."""
    assert "a kernel failed" in task.attempt(ADAPTED, 1, patch=fail)
    assert [memory["is_final"] for memory in task.memories()] == [False]
    text = task.attempt(ADAPTED, 1, patch=fail, AGAIN=" again")
    assert "goes on from step 5" in text and "a kernel failed again" in text
    third = task.attempt(ADAPTED, 1, patch=load_nothing)
    assert f"sft: error: a kernel failed {AGAIN}" in third and "Traceback" not in third
    (file,) = task.root.glob("kept/*/attempts.json")
    file.write_text(json.dumps({**json.loads(file.read_text()), "written": time.time() - 3700}))
    # A person tries again, after an hour.
    assert "goes on from step 5" in task.attempt(ADAPTED)
    assert task.memories() == []


def test_deaths_without_a_word_end_too(task):
    """As by a machine that is short of memory: there is no message but ours."""
    for _ in range(DEATHS):
        task.attempt(ADAPTED, -signal.SIGKILL, patch=die)
    text = task.attempt(ADAPTED, 1, patch=load_nothing)
    assert f"{DEATHS} attempts in a row were killed before they saved a state after step 0" in text


def test_a_preemption_is_no_failure(task):
    log = task.root / "metrics" / METRICS
    for _ in range(DEATHS):
        done = log.read_bytes().count(b"\n") if log.exists() else 0
        process = task.start(ADAPTED)
        wait_for_steps(process, task.root / "metrics", done + 1)
        os.kill(process.pid, signal.SIGTERM)
        finish(process, task.output, 143)
        assert task.memories() == []
    task.attempt(ADAPTED)


def test_nothing_is_remembered_outside_a_cluster(task):
    """Whoever mends the data by hand would be stopped by it."""
    for _ in range(2):
        assert AGAIN not in task.attempt(TOO_SHORT, 2, KUBERNETES_SERVICE_HOST="")
    assert task.memories() == []


@pytest.mark.parametrize(
    "content",
    [
        {"step": 0, "deaths": "x", "is_open": True},
        {"step": 0, "written": None},
        {"step": 0, "unknown": 1},
        [],
        3,
    ],
)
def test_a_memory_of_another_form_is_none(tmp_path, content):
    attempt = attempts._Attempt(str(tmp_path), tmp_path)
    if isinstance(content, dict):
        content = {**content, "task": attempt.task}
    (tmp_path / "attempts.json").write_text(json.dumps(content))
    assert attempt._recall() == attempts.Memory(task=attempt.task, step=0)
