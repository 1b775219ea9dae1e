"""A stage that is killed and started again ends where an uninterrupted one does."""

import json
import math
import os
import random
import signal
import warnings
from pathlib import Path

import pytest
import torch

from components.artifact import METRICS
from model import diffusion
from tests.components.forked import finish, start, wait, wait_for_steps
from tests.ports import free_port

SMALL = {"batch_size": 4, "micro_batch_size": 2, "max_length": 64, "examples": 50}
FULL = {**SMALL, "steps": 120, "learning_rate": 1e-3, "warmup_steps": 5}
ADAPTED = {**FULL, "steps": 30, "lora": {"rank": 4, "alpha": 8, "dropout": 0.1}}


class Runs:
    """Attempts at the same stage, each with output directories of its own."""

    def __init__(self, root, downloaded, stage="sft", base=None):
        self.root, self.downloaded, self.count = root, downloaded, 0
        self.stage, self.base = stage, base or downloaded / "model"

    def start(self, config, processes=1, environment=None, **options):
        """A new attempt, by one process or as torchrun would start several; the first of them."""
        self.count += 1
        self.place = self.root / f"attempt-{self.count}"
        self.place.mkdir()
        self.output = self.place / "output-0"
        self.started = [
            start(
                self.stage,
                config,
                output=self.place / f"output-{rank}",
                environment={**(environment or {}), **rank_environment(rank, processes, port)},
                base=self.base,
                dataset=self.downloaded / "dataset",
                trained=self.place / "trained",
                metrics=self.place / "metrics",
                **options,
            )
            for port in [free_port()]
            for rank in range(processes)
        ]
        return self.started[0]

    def complete(self, config, code=0, **options):
        """Runs to the end; what the first process printed."""
        self.start_until(lambda: False, config, **options)
        return self.finish(code)

    def start_until(self, reached, config, **options):
        """A new attempt, which has ended or `reached()` is true.

        gloo of torch 2.13 hangs now and then where two processes share a machine: its thread spins
        in the destructor of UnboundBuffer behind an all-gather. Such an attempt is started again.
        """
        for _ in range(3):
            self.start(config, **options)
            if not self._hangs(reached):
                return
        pytest.fail("gloo hung three times")

    def _hangs(self, reached):
        """Whether two minutes pass without the end and without `reached`; then all are killed."""
        if wait(self.started, reached, 120 if len(self.started) > 1 else math.inf):
            return False
        assert any(spins_in_gloo(process.pid) for process in self.started), "our own hang"
        warnings.warn("gloo hung; its processes were started again", stacklevel=2)
        self.kill()
        return True

    def kill(self):
        """SIGKILL to all processes of the last attempt."""
        for process in self.started:
            process.kill()
            process.join()

    def steps(self):
        """How many steps the last attempt has recorded."""
        file = self.place / "metrics" / METRICS
        return file.read_bytes().count(b"\n") if file.exists() else 0

    def finish(self, code=0):
        """Waits for all processes; what the first printed."""
        texts = [
            finish(process, self.place / f"output-{rank}", code)
            for rank, process in enumerate(self.started)
        ]
        return texts[0]

    def records(self):
        lines = (self.place / "metrics" / METRICS).read_text().splitlines()
        return [json.loads(line) for line in lines]

    def weights(self):
        (file,) = (self.place / "trained").glob("*.safetensors")
        return file.read_bytes()


def spins_in_gloo(process):
    """Whether a thread in which gloo computes is running: behind a real wait it would sleep."""
    threads = [path.read_text() for path in Path(f"/proc/{process}/task").glob("*/stat")]
    return any("(pt_gloo_runloop) R" in text for text in threads)


def rank_environment(rank, processes, port):
    """What torchrun tells each process of one machine."""
    if processes == 1:
        return {}
    return {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
    }


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


def kill_with_a_state(runs, place, config, **options):
    """An attempt, of which all processes are killed once a state of it is kept."""
    runs.start_until(lambda: steps_in(place), config, **options)
    runs.kill()
    assert steps_in(place)


def steps_in(place):
    return sorted(int(path.name[5:]) for path in place.glob("*/step-*"))


def test_ten_kills(runs, tmp_path, straight):
    """kill -9 at ten random steps; the eleventh attempt finishes."""
    config = {**FULL, "checkpoint_uri": str(tmp_path / "kept"), "checkpoint_steps": 5}
    chance = random.Random(os.environ.get("PYTEST_SEED", "0"))
    kills, wait = 0, {False: (11, 12), True: (1, 12)}
    while kills < 10:
        process = runs.start(config)
        done = max(steps_in(tmp_path / "kept"), default=0)
        # A state is on its way while training goes on, and there for sure when the next one is due.
        wait_for_steps(process, runs.place / "metrics", done + chance.randint(*(wait[kills > 0])))
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


def test_adapter_with_dropout_resumes_in_another_place(runs, tmp_path, straight):
    """Dropout is drawn by step too; checkpointing settings and folders do not change a run."""
    uri = str(tmp_path / "kept")
    config = {**ADAPTED, "checkpoint_uri": uri, "checkpoint_minutes": 1e-6, "checkpoint_keep": 1}
    process = runs.start(config)
    wait_for_steps(process, runs.place / "metrics", 12)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert len(steps_in(tmp_path / "kept")) == 1
    text = runs.complete({**config, "checkpoint_minutes": 1000.0})
    assert "goes on from step" in text
    weights, records = straight["adapted"]
    assert (runs.weights(), curve(runs.records())) == (weights, curve(records))


def test_sigterm_saves_and_says_so(runs, tmp_path, straight):
    """The real command line: exit code 143, one line, and the next attempt goes on."""
    config = {**FULL, "checkpoint_uri": str(tmp_path / "kept")}
    process = runs.start(config)
    wait_for_steps(process, runs.place / "metrics", 7)
    os.kill(process.pid, signal.SIGTERM)
    text = finish(process, runs.output, code=143)
    (line,) = [line for line in text.splitlines() if ": stopped: " in line]
    (step,) = steps_in(tmp_path / "kept")
    assert step >= 7 and f"step {step} is saved" in line and "Traceback" not in text
    assert not list((runs.place / "trained").iterdir())
    assert f"goes on from step {step}" in runs.complete(config)
    weights, records = straight["full"]
    assert (runs.weights(), curve(runs.records())) == (weights, curve(records))


def stop_in_validation():
    """The process tells itself to stop in the first pass that has no gradient."""
    right = diffusion.denoise

    def denoise(*given, **options):
        if not torch.is_grad_enabled():
            os.kill(os.getpid(), signal.SIGTERM)
        return right(*given, **options)

    diffusion.denoise = denoise


def test_sigterm_in_validation_loses_no_record(runs, tmp_path):
    """The record of the step before it is kept with the state, and logged after the validation."""
    config = {**ADAPTED, "steps": 4, "validation_examples": 8, "validation_steps": 2}
    runs.complete(config)
    weights, records = runs.weights(), runs.records()
    config["checkpoint_uri"] = str(tmp_path / "kept")
    runs.complete(config, 143, patch=stop_in_validation)
    assert steps_in(tmp_path / "kept") == [2] and len(runs.records()) == 1
    assert "goes on from step 2" in runs.complete(config)
    assert (runs.weights(), curve(runs.records())) == (weights, curve(records))
    assert all(row["loss_by_ratio"] for row in runs.records())


def test_sigterm_without_checkpoints(runs):
    process = runs.start(FULL)
    wait_for_steps(process, runs.place / "metrics", 3)
    os.kill(process.pid, signal.SIGTERM)
    assert "without checkpoint_uri nothing is kept" in finish(process, runs.output, code=143)


@pytest.fixture
def kept(runs, tmp_path):
    """A finished run's configuration and its two checkpoints, of steps 20 and 30."""
    config = {**ADAPTED, "checkpoint_uri": str(tmp_path / "kept"), "checkpoint_steps": 10}
    assert "starts at step 0: no checkpoint in" in runs.complete(config)
    return config, sorted((tmp_path / "kept").glob("*/step-*"))


def truncate(folder):
    file = folder / "state-00001.safetensors"
    file.write_bytes(file.read_bytes()[:-1])


def flip(folder):
    file = folder / "facts.json"
    file.write_bytes(file.read_bytes().replace(b"0", b"1", 1))


def blank(folder):
    (folder / ".manifest.json").write_text("{")


def lose(folder):
    (folder / "metrics.jsonl").unlink()


@pytest.mark.parametrize("damage", [truncate, flip, blank, lose])
def test_damaged_newest_is_reported_and_the_one_before_used(runs, kept, straight, damage):
    config, (older, newest) = kept
    damage(newest)
    text = runs.complete(config)
    assert "checkpoint of step 30 is damaged and not used" in text
    assert f"goes on from step 20, from {older}" in text
    weights, records = straight["adapted"]
    assert (runs.weights(), curve(runs.records())) == (weights, curve(records))
    assert steps_in(older.parents[1]) == [20, 30]


def test_none_usable_is_an_error(runs, kept):
    config, folders = kept
    for folder in folders:
        truncate(folder)
    text = runs.complete(config, code=2)
    assert "none of 2 checkpoints is usable" in text and "Traceback" not in text
    assert not list((runs.place / "trained").iterdir())


def test_draft_without_manifest_is_no_checkpoint(runs, kept, straight):
    config, (_, newest) = kept
    (newest / ".manifest.json").unlink()
    assert "goes on from step 20" in runs.complete(config)
    assert runs.weights() == straight["adapted"][0]


def test_another_configuration_starts_afresh(runs, kept):
    config, _ = kept
    text = runs.complete({**config, "learning_rate": 2e-3})
    assert "starts at step 0" in text
