"""Two processes with gloo learn what one does, replicated or sharded, and take over from another.

The noise, the order and the dropout of a step are the same for any number of processes.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load

from model import diffusion
from tests.components.session.runs import Runs, kill_with_a_state, steps_in
from tests.conftest import ROOT

CONFIG = {"steps": 12, "batch_size": 8, "micro_batch_size": 2, "max_length": 64, "examples": 40}
CONFIG |= {"learning_rate": 1e-3, "precision": "fp32"}
CONFIG |= {"validation_examples": 7, "validation_steps": 5}
ADAPTER = {"lora": {"rank": 4, "alpha": 8, "dropout": 0.1}}
SHARD = {"parallel": "shard"}
FIGURES = ("loss", "validation_loss", "gradient_norm", "learning_rate")


@pytest.fixture
def runs(tmp_path, downloaded):
    return Runs(tmp_path, downloaded)


@pytest.fixture(scope="module")
def alone(tmp_path_factory, downloaded):
    """Curves and weights of one process: every weight trained, and an adapter."""
    found = []
    for kind in ({}, ADAPTER):
        run = Runs(tmp_path_factory.mktemp("alone"), downloaded)
        run.complete({**CONFIG, **kind})
        found.append((run.records(), load(run.weights())))
    return found


def alike(records, weights, expected):
    """Every figure of every step to 1e-5, and the weights to what Adam makes of that.

    The loss by mask ratio is that of the whole batch as well, not of one process's share.
    """
    theirs, tensors = expected
    assert [row["step"] for row in records] == [row["step"] for row in theirs]
    for ours, other in zip(records, theirs, strict=True):
        assert {name: ours[name] for name in FIGURES if name in ours} == pytest.approx(
            {name: other[name] for name in FIGURES if name in other}, rel=1e-5, abs=1e-5
        )
        assert ours["loss_by_ratio"] == pytest.approx(other["loss_by_ratio"], rel=1e-5, abs=1e-5)
    assert weights.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert (weights[name] - tensor).abs().max() < 1e-4, name


@pytest.mark.parametrize("change", [{}, SHARD, ADAPTER, {**ADAPTER, **SHARD}])
def test_two_processes_learn_what_one_does(runs, alone, change):
    runs.complete({**CONFIG, **change}, processes=2)
    alike(runs.records(), load(runs.weights()), alone["lora" in change])
    assert any("validation_loss" in row for row in runs.records())


@pytest.mark.parametrize(
    ("before", "after", "change"), [(1, 2, {}), (2, 1, {}), (1, 2, SHARD), (2, 1, SHARD)]
)
def test_another_number_of_processes_goes_on(runs, tmp_path, alone, before, after, change):
    config = {**CONFIG, **change, "checkpoint_uri": str(tmp_path / "kept"), "checkpoint_steps": 2}
    runs.start_until(lambda: runs.steps() >= 5, config, processes=before)
    runs.kill()
    assert steps_in(tmp_path / "kept")
    assert "goes on from step" in runs.complete(config, processes=after)
    alike(runs.records(), load(runs.weights()), alone[0])


def test_a_sharded_state_after_a_validation_has_all_moments(runs, tmp_path):
    """A pass without gradients leaves weights whole that the optimizer knows as shares."""
    kept = {"checkpoint_uri": str(tmp_path / "kept"), "validation_steps": 2}
    runs.complete({**CONFIG, **SHARD, **kept, "steps": 2}, processes=2)
    (file,) = (tmp_path / "kept").glob("*/step-00000002/*.safetensors")
    names = load(file.read_bytes()).keys()
    weights = {name.partition("/")[2] for name in names if name.startswith("weight/")}
    assert weights == {name.partition("/")[2] for name in names if name.startswith("exp_avg/")}


def test_sigterm_to_one_of_two_stops_both(runs, tmp_path, alone):
    config = {**CONFIG, "checkpoint_uri": str(tmp_path / "kept")}
    runs.start_until(lambda: runs.steps() >= 3, config, processes=2)
    os.kill(runs.started[1].pid, signal.SIGTERM)
    text = runs.finish(code=143)
    (step,) = steps_in(tmp_path / "kept")
    assert f"step {step} is saved" in text
    runs.complete(config)
    alike(runs.records(), load(runs.weights()), alone[0])


def watch():
    """Every process writes which noise its rows met."""
    right = diffusion.denoise

    def denoise(*given, generator, **options):
        for row in generator.uniform(4).tolist():
            print(f"noise {json.dumps(row)}", flush=True)
        return right(*given, generator=generator, **options)

    diffusion.denoise = denoise


def noise(runs):
    """What each process of the last attempt drew, as sets."""
    found = []
    for rank in range(len(runs.started)):
        lines = (runs.place / f"output-{rank}").read_text().splitlines()
        drawn = [line for line in lines if line.startswith("noise ")]
        assert len(set(drawn)) == len(drawn)
        found.append(set(drawn))
    return found


def test_ranks_draw_their_own_noise_and_together_what_one_draws(runs):
    config = {**CONFIG, "steps": 3, "validation_examples": 0}
    runs.complete(config, patch=watch)
    (one,) = noise(runs)
    runs.complete(config, processes=2, patch=watch)
    first, second = noise(runs)
    assert not first & second and first | second == one and len(one) == 24


def test_a_batch_that_cannot_be_shared_is_refused(runs):
    text = runs.complete({**CONFIG, "batch_size": 6, "validation_examples": 0}, 2, processes=2)
    assert "batch_size=6, allowed: a multiple of 4, micro_batch_size times 2 processes" in text


def test_torchrun_starts_processes_again_that_were_killed(runs, tmp_path, downloaded, alone):
    """The real launcher as components/README.md says: all processes begin anew where they were."""
    runs.place = tmp_path
    kept = {"checkpoint_uri": str(tmp_path / "kept"), "checkpoint_steps": 1}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += ["--max-restarts=1", "-m", "components.sft", "--config", json.dumps(CONFIG | kept)]
    command += ["--base", downloaded / "model", "--dataset", downloaded / "dataset"]
    command += ["--trained", tmp_path / "trained", "--metrics", tmp_path / "metrics"]
    unshared = {**os.environ, "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    with subprocess.Popen(
        command, cwd=ROOT, env=unshared, stdout=subprocess.PIPE, text=True
    ) as launcher:
        for line in launcher.stdout:
            if "checkpoint of step 3 saved" in line:
                break
        children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
        assert len(children) == 2
        os.kill(int(children[1]), signal.SIGKILL)
        said = launcher.stdout.read()
    assert launcher.returncode == 0, said
    assert "goes on from step" in said
    alike(runs.records(), load(runs.weights()), alone[0])


def test_pretraining_goes_on_where_its_processes_were_killed(tmp_path, downloaded):
    """As SFT, DPO and GRPO do (`test_preference_processes.py`)."""
    runs = Runs(tmp_path, downloaded, "pretrain")
    config = {
        "steps": 30,
        "batch_size": 4,
        "micro_batch_size": 2,
        "window": 32,
        "precision": "fp32",
    }
    runs.complete(config)
    expected = runs.records(), load(runs.weights())
    config |= {"checkpoint_uri": str(tmp_path / "kept"), "checkpoint_steps": 1}
    kill_with_a_state(runs, tmp_path / "kept", config, processes=2)
    assert "goes on from step" in runs.complete(config, processes=2)
    alike(runs.records(), load(runs.weights()), expected)
