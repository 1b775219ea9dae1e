"""A stage that is killed and started again ends where an uninterrupted one does."""

import json
import os
import random
import signal

import pytest

from components.artifact import METRICS
from tests.components.forked import finish, start, wait_for_steps

SMALL = {"batch_size": 4, "micro_batch_size": 2, "max_length": 64, "examples": 50}
FULL = {**SMALL, "steps": 120, "learning_rate": 1e-3, "warmup_steps": 5}
ADAPTED = {**FULL, "steps": 30, "lora": {"rank": 4, "alpha": 8, "dropout": 0.1}}


class Runs:
    """Attempts at the same stage, each with output directories of its own."""

    def __init__(self, root, downloaded):
        self.root, self.downloaded, self.count = root, downloaded, 0

    def start(self, config, **options):
        self.count += 1
        self.place = self.root / f"attempt-{self.count}"
        self.place.mkdir()
        self.output = self.place / "output"
        return start(
            "sft",
            config,
            output=self.output,
            base=self.downloaded / "model",
            dataset=self.downloaded / "dataset",
            adapter=self.place / "adapter",
            metrics=self.place / "metrics",
            **options,
        )

    def complete(self, config, code=0, **options):
        """Runs to the end; what was printed."""
        return finish(self.start(config, **options), self.output, code)

    def records(self):
        lines = (self.place / "metrics" / METRICS).read_text().splitlines()
        return [json.loads(line) for line in lines]

    def weights(self):
        (file,) = (self.place / "adapter").glob("*.safetensors")
        return file.read_bytes()


@pytest.fixture
def runs(tmp_path, downloaded):
    return Runs(tmp_path, downloaded)


@pytest.fixture(scope="module")
def straight(tmp_path_factory, downloaded):
    """Weights and records of runs that nothing interrupts and that keep no checkpoint."""
    found = {}
    for name, config in (("full", FULL), ("adapted", ADAPTED)):
        whole = Runs(tmp_path_factory.mktemp(name), downloaded)
        whole.complete(config)
        found[name] = (whole.weights(), whole.records())
    return found


def curve(records):
    """What must not depend on interruptions: everything but speed and memory."""
    timed = ("tokens_per_second", "peak_memory_bytes")
    return [{key: row[key] for key in row if key not in timed} for row in records]


def steps_in(place):
    return sorted(int(path.name[5:]) for path in place.glob("*/step-*"))


def test_ten_kills(runs, tmp_path, straight):
    """kill -9 at ten random steps; the eleventh attempt finishes."""
    config = {**FULL, "checkpoint_uri": str(tmp_path / "kept"), "checkpoint_steps": 5}
    chance = random.Random(os.environ.get("PYTEST_SEED", "0"))
    kills = 0
    while kills < 10:
        process = runs.start(config)
        done = max(steps_in(tmp_path / "kept"), default=0)
        wait_for_steps(process, runs.place / "metrics", done + chance.randint(1, 12))
        assert process.is_alive(), runs.output.read_text()
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        kills += 1
    text = runs.complete(config)
    weights, records = straight["full"]
    assert "goes on from step" in text
    assert [row["step"] for row in runs.records()] == list(range(1, 121))
    assert curve(runs.records()) == curve(records)
    assert runs.weights() == weights
    assert len(steps_in(tmp_path / "kept")) == 2
