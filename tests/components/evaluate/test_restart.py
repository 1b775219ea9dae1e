"""An evaluation that is killed asks nothing twice, and several processes answer as one does."""

import json
import os
import signal

import pytest

from components import artifact
from components.evaluate import store
from components.outputs import KEPT
from model import batching
from tests.components.forked import finish, start
from tests.components.session.runs import rank_environment
from tests.conftest import stage
from tests.ports import free_port

CONFIG = {"gen_length": 8, "block_length": 4, "batch_size": 3, "limit": 20, "traces": 0}
ASKED = "asked.txt"
KILLED_AFTER = 7


def count():
    """Writes a line for every request that goes to the model, into the working directory's file."""
    original = batching.generate_all

    def counted(model, requests, **options):
        with open(os.environ["ASKED"], "a") as file:
            for request in requests:
                file.write(json.dumps(list(request.prompt)) + "\n")
        yield from original(model, requests, **options)

    batching.generate_all = counted


def count_and_die():
    """As `count`, and kills its own process in the middle of writing an answer's line."""
    count()
    original, left = store.Store.add, [KILLED_AFTER]

    def add(self, query, finished):
        if not left[0]:
            with (self.folder / self.file).open("a") as stream:
                stream.write('{"key": "cut sh')
            os.kill(os.getpid(), signal.SIGKILL)
        left[0] -= 1
        original(self, query, finished)

    store.Store.add = add


class Evaluations:
    """Evaluations of one model, each started in its own directory unless one is taken up."""

    def __init__(self, root, downloaded):
        self.root, self.downloaded = root, downloaded

    def paths(self, name):
        outputs = {output: self.root / name / output for output in ("evaluation", "metrics")}
        return {
            "model": self.downloaded / "model",
            "dataset": self.downloaded / "dataset",
            **outputs,
        }

    def start(self, name, config, number=0, **options):
        text = self.root / f"{name}-{number}.txt"
        return start("evaluate", config, output=text, **self.paths(name), **options), text

    def asked(self, name, config, patch=count, code=0):
        """The prompts of the requests that went to the model."""
        file = self.root / ASKED
        file.unlink(missing_ok=True)
        running, text = self.start(name, config, environment={"ASKED": str(file)}, patch=patch)
        finish(running, text, code)
        return file.read_text().splitlines() if file.exists() else []

    def samples(self, name):
        artifact.verify(self.root / name / "evaluation")
        return (self.root / name / "evaluation" / "samples.jsonl").read_text()

    def results(self, name):
        return json.loads((self.root / name / "evaluation" / "results.json").read_text())


@pytest.fixture
def evaluations(tmp_path, downloaded):
    return Evaluations(tmp_path, downloaded)


@pytest.mark.parametrize("kept", ["evaluation", "checkpoint_uri"])
def test_no_request_is_asked_twice(evaluations, tmp_path, kept):
    config = CONFIG
    if kept == "checkpoint_uri":
        config = {**CONFIG, "checkpoint_uri": str(tmp_path / "kept")}
    every = evaluations.asked("whole", CONFIG)
    assert len(every) == CONFIG["limit"] == len(set(every))
    first = evaluations.asked("one", config, patch=count_and_die, code=-signal.SIGKILL)
    assert sorted(first) == sorted(every)
    second = evaluations.asked("one", config)
    assert len(second) == len(every) - KILLED_AFTER and set(second) <= set(every)
    assert evaluations.samples("one") == evaluations.samples("whole")
    figures = ("accuracy", "correct", "problems", "forward_passes_per_answer")
    for name in figures:
        assert evaluations.results("one")[name] == evaluations.results("whole")[name]
    # The output holds no more than that of an evaluation that nothing stopped.
    files = [
        {path.name for path in (tmp_path / name / "evaluation").iterdir()}
        for name in ("one", "whole")
    ]
    assert files[0] == files[1]


def test_other_settings_are_asked_anew(evaluations, tmp_path):
    """What was finished with one temperature answers no request with another."""
    config = {**CONFIG, "checkpoint_uri": str(tmp_path / "kept"), "limit": 4}
    assert len(evaluations.asked("first", config)) == 4
    assert evaluations.asked("same", config) == []
    assert evaluations.samples("same") == evaluations.samples("first")
    assert len(evaluations.asked("warm", {**config, "temperature": 0.5})) == 4
    # The batch is no setting of a request: all but the new ones are there.
    larger = evaluations.asked("larger", {**config, "batch_size": 1, "limit": 6})
    assert len(larger) == 2


def test_a_refusal_leaves_no_answers(evaluations, tmp_path):
    done = stage("evaluate", {**CONFIG, "gen_length": 4096}, check=False, **evaluations.paths("x"))
    assert done.returncode == 2 and "gen_length=4096" in done.stderr
    assert not list((tmp_path / "x" / "evaluation").glob("*"))


def test_two_processes_answer_as_one(evaluations, tmp_path):
    finish(*evaluations.start("alone", CONFIG))
    port = free_port()
    pair = [
        evaluations.start("pair", CONFIG, number=rank, environment=rank_environment(rank, 2, port))
        for rank in range(2)
    ]
    for running, text in pair:
        finish(running, text)
    assert evaluations.samples("pair") == evaluations.samples("alone")
    ours, theirs = (evaluations.results(name) for name in ("pair", "alone"))
    assert ours["forward_passes_per_answer"] == theirs["forward_passes_per_answer"]
    assert not list((tmp_path / "pair" / "evaluation").glob(KEPT))
