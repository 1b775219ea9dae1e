"""Weights & Biases by its own client, which keeps runs on disk where it is to stay offline."""

import os
import signal

from tests.components.forked import wait_for_steps
from tests.components.session.runs import ADAPTED, Runs

KEY = {"WANDB_API_KEY": "0" * 40, "WANDB_MODE": "offline", "WANDB_SILENT": "true"}


def kept(folder):
    """The ids of the runs that lie there, one for each attempt."""
    return [path.name.rpartition("-")[2] for path in folder.glob("wandb/offline-run-*")]


def test_a_resumed_stage_goes_on_with_its_run(tmp_path, downloaded):
    runs = Runs(tmp_path, downloaded)
    config = {**ADAPTED, "checkpoint_uri": str(tmp_path / "state"), "checkpoint_steps": 5}
    environment = {**KEY, "WANDB_DIR": str(tmp_path)}
    process = runs.start(config, environment=environment)
    wait_for_steps(process, runs.place / "metrics", 7)
    os.kill(process.pid, signal.SIGTERM)
    runs.finish(143)
    assert len(kept(tmp_path)) == 1
    runs.complete(config, environment=environment)
    first, second = kept(tmp_path)
    assert first == second
    assert [record["step"] for record in runs.records()] == list(range(1, 31))


def test_off_without_a_key(tmp_path, downloaded):
    runs = Runs(tmp_path, downloaded)
    environment = {"WANDB_API_KEY": "", "WANDB_DIR": str(tmp_path), "WANDB_MODE": "offline"}
    runs.complete({**ADAPTED, "steps": 2}, environment=environment)
    assert not list(tmp_path.rglob("wandb"))
