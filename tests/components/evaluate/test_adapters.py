"""A base with an adapter that is not merged answers as the merged model does."""

import json

import pytest

from tests.conftest import stage

EVALUATE = {"gen_length": 16, "block_length": 8, "limit": 6, "traces": 1, "cache": "none"}
TRAIN = {
    "steps": 30,
    "batch_size": 8,
    "micro_batch_size": 8,
    "learning_rate": 1e-2,
    "max_length": 64,
    "padding": "drawn",
    "precision": "fp32",
    "lora": {"rank": 4, "alpha": 8.0, "dropout": 0.0},
}


@pytest.fixture(scope="module")
def trained(downloaded, tmp_path_factory):
    """`adapter` of the downloaded model, and `merged`."""
    root = tmp_path_factory.mktemp("trained")
    base, dataset = downloaded / "model", downloaded / "dataset"
    adapter, merged = root / "adapter", root / "merged"
    stage("sft", TRAIN, base=base, dataset=dataset, trained=adapter, metrics=root / "m")
    stage("merge", base=base, trained=adapter, model=merged, metrics=root / "n")
    return root


def evaluate(root, dataset, check=True, **paths):
    return stage(
        "evaluate",
        EVALUATE,
        check=check,
        dataset=dataset,
        evaluation=root / "evaluation",
        metrics=root / "metrics",
        **paths,
    )


def test_the_same_answers_and_passes_as_the_merged_model(downloaded, trained, tmp_path):
    dataset = downloaded / "dataset"
    evaluate(tmp_path / "a", dataset, model=trained / "merged")
    evaluate(tmp_path / "b", dataset, model=downloaded / "model", adapters=trained / "adapter")
    for name in ("samples.jsonl", "traces.jsonl"):
        merged, ours = ((tmp_path / run / "evaluation" / name).read_text() for run in "ab")
        assert merged == ours and merged
    record = json.loads((tmp_path / "b" / "evaluation" / ".artifact.json").read_text())
    assert record["inputs"]["adapter_0"]["stage"] == "sft"
    evaluate(tmp_path / "c", dataset, model=downloaded / "model")
    base = (tmp_path / "c" / "evaluation" / "traces.jsonl").read_text()
    assert base != ours, "the adapter does something"


def test_an_adapter_of_another_base_stops_the_stage(downloaded, trained, tmp_path):
    """Its base is the downloaded model, and here it comes on the merged one."""
    paths = {"model": trained / "merged", "adapters": trained / "adapter"}
    done = evaluate(tmp_path, downloaded / "dataset", check=False, **paths)
    assert done.returncode == 2
    assert "was trained on base" in done.stderr and "allowed: an adapter of" in done.stderr
    assert not (tmp_path / "evaluation" / "results.json").exists()


def test_a_missing_adapter_stops_the_stage(downloaded, tmp_path):
    paths = {"model": downloaded / "model", "adapters": tmp_path / "nowhere"}
    done = evaluate(tmp_path, downloaded / "dataset", check=False, **paths)
    assert done.returncode == 2 and "nowhere: no such directory" in done.stderr
