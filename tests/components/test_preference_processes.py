"""DPO and GRPO in several processes over gloo: the rewards, curve and weights of one process.

`test_processes.py` does the same for the shared loop with SFT.
"""

import pytest
from safetensors.torch import load

from tests.components.session.runs import Runs, curve, kill_with_a_state

ADAPTER = {"rank": 4, "alpha": 8, "dropout": 0.0}
DPO = {"steps": 3, "batch_size": 8, "micro_batch_size": 2, "max_length": 64, "draws": 2}
DPO |= {"learning_rate": 1e-4, "precision": "fp32", "lora": ADAPTER, "sft_weight": 0.5}
# Of 16 rollouts some groups are flat, so that the micro-batches that are left are too few for four.
GRPO = {"steps": 3, "batch_size": 16, "group": 4, "minibatch": 8, "micro_batch_size": 2}
GRPO |= {"learning_rate": 1e-4, "precision": "fp32", "lora": ADAPTER, "inner_updates": 1}
GRPO |= {"gen_length": 32, "block_length": 8, "threshold": 0.5, "temperature": 1.0, "passes": 2}
GRPO |= {"rewards": [["format", 1.0], ["equations", 1.0], ["overlong", 1.0]], "reward_workers": 1}
CONFIGS = {"dpo": DPO, "grpo": GRPO}
SHARD = {"parallel": "shard"}
# Which process generates an answer decides beside which others it stands, and how many passes are
# made together.
OWN = ("rollout_passes",)


def runs_of(stage, root, downloaded, taught):
    return Runs(root, downloaded, stage, taught if stage == "grpo" else None)


@pytest.fixture(scope="module")
def alone(tmp_path_factory, downloaded, taught):
    """Records and weights of one process, by stage."""
    found = {}
    for stage, config in CONFIGS.items():
        run = runs_of(stage, tmp_path_factory.mktemp(stage), downloaded, taught)
        run.complete(config)
        found[stage] = run.records(), load(run.weights())
    records, _ = found["grpo"]
    assert all(row["gradient_norm"] > 0 for row in records)
    assert any(row["groups_without_spread"] for row in records)
    return found


def alike(run, expected):
    """Every figure of every step and every weight to 1e-5."""
    records, weights = expected
    assert len(run.records()) == len(records)
    for ours, theirs in zip(curve(run.records()), curve(records), strict=True):
        theirs = {name: value for name, value in theirs.items() if name not in OWN}
        assert {name: ours.get(name) for name in theirs} == pytest.approx(
            theirs, rel=1e-5, abs=1e-5
        )
    found = load(run.weights())
    assert found.keys() == weights.keys()
    for name, tensor in weights.items():
        assert (found[name] - tensor).abs().max() < 1e-5, name


@pytest.mark.parametrize("stage", CONFIGS)
@pytest.mark.parametrize(("processes", "change"), [(2, {}), (4, {}), (2, SHARD), (4, SHARD)])
def test_processes_learn_what_one_does(
    tmp_path, downloaded, taught, alone, stage, processes, change
):
    run = runs_of(stage, tmp_path, downloaded, taught)
    run.complete({**CONFIGS[stage], **change}, processes=processes)
    alike(run, alone[stage])


@pytest.mark.parametrize("stage", CONFIGS)
@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1)])
def test_another_number_of_processes_goes_on(
    tmp_path, downloaded, taught, alone, stage, before, after
):
    run = runs_of(stage, tmp_path, downloaded, taught)
    config = {**CONFIGS[stage], "checkpoint_uri": str(tmp_path / "kept"), "checkpoint_steps": 1}
    kill_with_a_state(run, tmp_path / "kept", config, processes=before)
    assert "goes on from step" in run.complete(config, processes=after)
    alike(run, alone[stage])
