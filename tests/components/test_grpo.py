"""GRPO's loop: exact ratios, one policy for rollouts and updates, exact resume, refused input."""

import json
import signal
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from components import coerce
from components.data import dataset as data
from components.grpo.config import GrpoConfig
from components.grpo.learner import Learner
from components.grpo.rollouts import roll_out
from components.session.session import open_base
from model import estimators
from tests.conftest import ROOT, stage

CONFIG = {
    "steps": 3,
    "batch_size": 16,
    "micro_batch_size": 4,
    "minibatch": 8,
    "learning_rate": 1e-2,
    "group": 4,
    "inner_updates": 2,
    "gen_length": 16,
    "block_length": 8,
    "threshold": 0.5,
    "temperature": 1.0,
    "rewards": [["verified", 1.0], ["format", 1.0], ["equations", 1.0]],
    "lora": {"rank": 4, "alpha": 8, "dropout": 0.0},
}
ESTIMATORS = ("one_pass", "complementary", "elbo", "trajectory")


def learner(base, dataset, **changes):
    config = coerce.build(GrpoConfig, {**CONFIG, **changes})
    model, wrapped, tokenizer = open_base(base, config)
    return Learner(model, wrapped, tokenizer, data.read(dataset, "problems"), config)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_ratios_are_exactly_one_before_the_first_update(taught, downloaded, estimator):
    """What is stored as behaviour equals what the first update computes, bit for bit."""
    subject = learner(taught, downloaded / "dataset", estimator=estimator)
    rollouts, _ = roll_out(
        subject.model, subject.tokenizer, subject.problems[:4], subject.config, subject.random
    )
    inner = subject._prepare(rollouts)
    assert inner.old_BL.any() and torch.equal(inner.old_BL, inner.reference_BL)
    for minibatch in inner.plan:
        for rows in minibatch:
            new_BL = subject._log_probabilities(
                rollouts.rows(rows), [view.rows(rows) for view in inner.views]
            )
            assert new_BL.requires_grad
            assert torch.equal(new_BL.detach(), inner.old_BL[rows])


def test_every_inner_update_has_views_of_its_own(taught, downloaded):
    subject = learner(taught, downloaded / "dataset", estimator="complementary")
    rollouts, _ = roll_out(
        subject.model, subject.tokenizer, subject.problems[:4], subject.config, subject.random
    )
    first, second = subject._prepare(rollouts), subject._prepare(rollouts)
    assert not torch.equal(first.views[0].hidden_BL, second.views[0].hidden_BL)


def test_order_of_commits_is_the_samplers(taught, downloaded):
    """Every token of the window has a pass, the prompt the first, and blocks come in turn."""
    subject = learner(taught, downloaded / "dataset")
    rollouts, figures = roll_out(
        subject.model, subject.tokenizer, subject.problems[:4], subject.config, subject.random
    )
    order = rollouts.order_BL[rollouts.window_BL].view(16, -1)
    assert (order >= 1).all()
    unfinished = ~(rollouts.tokens_BL == subject.tokenizer.eos_token_id).any(1)
    for row in order[unfinished]:
        assert row[:8].max() < row[8:].min()
    assert 0 <= figures["groups_without_spread"] <= 4


def test_reward_without_spread_updates_nothing(downloaded):
    """A model that gets nothing right has no advantage, and its adapter stays as it was."""
    config = {"rewards": [["verified", 1.0]]}
    subject = learner(downloaded / "model", downloaded / "dataset", **config)
    before = {name: p.clone() for name, p in subject.model.named_parameters()}
    record = subject.step(0)
    assert record["groups_without_spread"] == 4
    assert record["peak_memory_bytes"] > 2**20
    for name, parameter in subject.model.named_parameters():
        assert torch.equal(parameter, before[name])


def command(base, dataset, out, config):
    return [
        *(sys.executable, "-m", "components.grpo", "--config", json.dumps(config)),
        *("--base", str(base), "--dataset", str(dataset)),
        *("--trained", str(out / "trained"), "--metrics", str(out / "metrics")),
    ]


def test_goes_on_exactly_after_sigterm(taught, downloaded, tmp_path):
    """Stopped after its first step and started again: the same adapter, bit for bit."""
    config = {**CONFIG, "checkpoint_uri": str(tmp_path / "checkpoints"), "checkpoint_steps": 1}
    whole = {**CONFIG}
    dataset = downloaded / "dataset"
    for name in ("one", "two", "three"):
        (tmp_path / name).mkdir()
    subprocess.run(command(taught, dataset, tmp_path / "one", whole), cwd=ROOT, check=True)
    stopped = subprocess.Popen(
        command(taught, dataset, tmp_path / "two", config),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert stopped.stdout is not None
    for line in stopped.stdout:
        if "checkpoint of step 1" in line:
            stopped.send_signal(signal.SIGTERM)
    assert stopped.wait() == 143
    assert not (tmp_path / "two" / "trained" / ".artifact.json").exists()
    again = subprocess.run(
        command(taught, dataset, tmp_path / "three", config),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "goes on from step" in again.stdout
    expected, found = (
        load_file(tmp_path / name / "trained" / "adapter_model.safetensors")
        for name in ("one", "three")
    )
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        assert torch.equal(tensor, found[name]), name
    lines = [
        [json.loads(line) for line in (tmp_path / n / "metrics" / "metrics.jsonl").open()]
        for n in ("one", "three")
    ]
    assert [row["step"] for row in lines[1]] == [1, 2, 3]
    assert [row["reward"] for row in lines[0]] == [row["reward"] for row in lines[1]]


def test_dropout_is_refused(taught, downloaded, tmp_path):
    config = {**CONFIG, "lora": {"rank": 4, "dropout": 0.1}}
    done = stage(
        "grpo",
        config,
        check=False,
        base=taught,
        dataset=downloaded / "dataset",
        trained=tmp_path / "a",
        metrics=tmp_path / "m",
    )
    assert done.returncode == 2 and "lora.dropout=0.1, allowed: 0" in done.stderr


def test_estimators_differ(taught, downloaded):
    subject = learner(taught, downloaded / "dataset")
    rollouts, _ = roll_out(
        subject.model, subject.tokenizer, subject.problems[:2], subject.config, subject.random
    )
    hidden = estimators.quadrature(
        rollouts.window_BL, rollouts.answer_BL, points=2, generator=subject.random
    )
    assert hidden[0].hidden_BL.sum() < hidden[1].hidden_BL.sum()
