"""A longer context by YaRN, in what is trained, merged and loaded; and options that train."""

import json

import pytest
import torch

from model import checkpoint
from tests.conftest import stage

CONFIG = {"steps": 2, "batch_size": 4, "micro_batch_size": 2, "window": 64, "learning_rate": 1e-3}


def pretrain(downloaded, out, **changes):
    return stage(
        "pretrain",
        {**CONFIG, **changes},
        check=False,
        base=downloaded / "model",
        dataset=downloaded / "dataset",
        trained=out / "trained",
        metrics=out / "metrics",
    )


@pytest.mark.parametrize("lora", [None, {"rank": 4, "alpha": 8}])
def test_the_merged_model_has_the_longer_context(downloaded, tmp_path, lora):
    """Trained whole or as an adapter: the merged model takes 256 tokens where the base took 128."""
    changes = {} if lora is None else {"lora": lora}
    done = pretrain(downloaded, tmp_path, context=256, window=200, **changes)
    assert done.returncode == 0, done.stderr
    stage(
        "merge",
        base=downloaded / "model",
        trained=tmp_path / "trained",
        model=tmp_path / "model",
        metrics=tmp_path / "merged",
    )
    model = checkpoint.load(tmp_path / "model", dtype=torch.float32)
    assert model.config.max_sequence_length == 256
    assert model.config.yarn_scale == 2.0
    assert model.config.yarn_original_max_position_embeddings == 128
    with torch.no_grad():
        assert model(torch.zeros(1, 256, dtype=torch.long)).isfinite().all()
    with pytest.raises(ValueError, match="allowed: 1 to 128"):
        checkpoint.load(downloaded / "model")(torch.zeros(1, 129, dtype=torch.long))


def test_a_shorter_context_is_refused(downloaded, tmp_path):
    done = pretrain(downloaded, tmp_path, context=64)
    assert done.returncode == 2
    assert "context=64, allowed: 128 (the base's own) or more" in done.stderr


def test_every_option_of_the_objective_trains(downloaded, tmp_path):
    """Through the command line, with the loss by mask ratio beside its mean."""
    options = {
        "curriculum": {"curriculum": {"original_context": 16, "strength": 2.0}},
        "pairs": {"complementary": True, "z_loss": 1e-4},
        "band": {"band": [0.3, 0.8]},
    }
    seen = {}
    for name, objective in options.items():
        done = pretrain(downloaded, tmp_path / name, objective=objective)
        assert done.returncode == 0, done.stderr
        rows = [json.loads(line) for line in (tmp_path / name / "metrics/metrics.jsonl").open()]
        assert [row["step"] for row in rows] == [1, 2]
        seen[name] = {bucket for row in rows for bucket in row["loss_by_ratio"]}
    assert seen["band"] <= {"0.3", "0.4", "0.5", "0.6", "0.7", "0.8"}
    assert "0.0" in seen["pairs"] and "0.9" in seen["pairs"]


def test_a_curriculum_in_sft_is_refused(downloaded, tmp_path):
    done = stage(
        "sft",
        {"objective": {"curriculum": {"original_context": 16}}},
        check=False,
        base=downloaded / "model",
        dataset=downloaded / "dataset",
        trained=tmp_path / "trained",
        metrics=tmp_path / "metrics",
    )
    assert done.returncode == 2 and "objective.curriculum" in done.stderr
