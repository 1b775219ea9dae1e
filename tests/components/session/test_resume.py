"""A stage that is killed and started again ends where an uninterrupted one does."""

import os
import random
import signal

import pytest
import torch

from model import diffusion
from tests.components.forked import finish, wait_for_steps
from tests.components.session.runs import (
    ADAPTED,
    FULL,
    Runs,
    curve,
    steps_in,
)


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
    # The kill may come after the newest state is whole and before the older one is removed.
    assert len(steps_in(tmp_path / "kept")) in (1, 2)
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
