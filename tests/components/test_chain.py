"""A stage on a base and its adapters is the same stage on their merged copy, bit for bit."""

import json
import shutil

import pytest
import torch

from components import adapted, artifact
from components.merge.config import MergeConfig
from model import checkpoint
from tests.components.test_tied_merge import store_head
from tests.conftest import stage

TRAIN = {
    "steps": 2,
    "batch_size": 4,
    "micro_batch_size": 4,
    "max_length": 64,
    "learning_rate": 1e-2,
    "checkpoint_steps": 1,
}
LORA = {"rank": 4, "alpha": 8.0}
KINDS = {
    "lora": LORA,
    "rslora": {**LORA, "rslora": True},
    "dora": {**LORA, "dora": True},
    "rows": {**LORA, "new_tokens": True},
    "tied": {**LORA, "new_tokens": True},
}
WEIGHTS = "adapter_model.safetensors"


@pytest.fixture(scope="module")
def tied(downloaded, tmp_path_factory):
    """The downloaded model with a tied head, which its file holds twice."""
    path = tmp_path_factory.mktemp("tied") / "model"
    shutil.copytree(downloaded / "model", path)
    (path / artifact.RECORD).unlink()
    network = checkpoint.load(path, dtype=torch.float32)
    state = network.state_dict()
    del state[checkpoint.HEAD]
    network.config.weight_tying = True
    model = type(network)(network.config)
    model.load_state_dict(state)
    checkpoint.save(model.to(torch.bfloat16), path)
    store_head(path)
    artifact.record({"model": path}, stage="download", config=MergeConfig(), inputs={}, summary={})
    return path


def train(root, name, base, dataset, lora=LORA, check=True, adapters=(), **changes):
    """SFT for two steps; the path of what it trained."""
    stage(
        "sft",
        {**TRAIN, **changes, "lora": lora},
        check=check,
        base=base,
        **({"adapters": adapters} if adapters else {}),
        dataset=dataset,
        trained=root / name / "trained",
        metrics=root / name / "metrics",
    )
    return root / name / "trained"


@pytest.fixture(scope="module", params=KINDS)
def chain(request, downloaded, tied, tmp_path_factory):
    """A base, two adapters trained on each other, and the merged copies that stand for them."""
    root, data = tmp_path_factory.mktemp(request.param), downloaded / "dataset"
    base = tied if request.param == "tied" else downloaded / "model"
    first = train(root, "first", base, data, KINDS[request.param])
    merge = {"base": base, "trained": first}
    stage("merge", **merge, model=root / "half", metrics=root / "half-metrics")
    return root, data, base, first, root / "half"


def equal(ours, theirs):
    return (ours / WEIGHTS).read_bytes() == (theirs / WEIGHTS).read_bytes()


def losses(trained):
    lines = (trained.parent / "metrics" / artifact.METRICS).read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


def test_training_and_resuming_are_those_of_a_merged_copy(chain, tmp_path):
    root, data, base, first, half = chain
    second = train(root, "second", base, data, adapters=first)
    merged = train(root, "merged", half, data)
    assert equal(second, merged) and losses(second) == losses(merged)
    alone = train(tmp_path, "alone", base, data)
    assert not equal(alone, second), "the first adapter does something"
    # Two steps in two runs: the second goes on from the checkpoint of the first.
    place = {"checkpoint_uri": str(tmp_path / "checkpoints")}
    whole = train(tmp_path, "whole", base, data, adapters=first, **place)
    assert equal(whole, second)
    (run,) = (tmp_path / "checkpoints").iterdir()
    shutil.rmtree(run / "step-00000002")
    again = train(tmp_path, "again", base, data, adapters=first, **place)
    assert equal(again, second) and losses(again) == losses(second)


def test_one_merge_is_merge_after_merge(chain, tmp_path):
    """All adapters at once, rounded after each, in a file like that of the last merge."""
    root, data, base, first, half = chain
    second = train(tmp_path, "second", base, data, adapters=first)
    merged = train(tmp_path, "merged", half, data)
    once, twice = tmp_path / "once", tmp_path / "twice"
    for path, inputs in (
        (once, {"base": base, "adapters": first, "trained": second}),
        (twice, {"base": half, "trained": merged}),
    ):
        stage("merge", **inputs, model=path, metrics=path.parent / f"{path.name}-metrics")
    assert sorted(file.name for file in once.iterdir()) == sorted(
        file.name for file in twice.iterdir()
    )
    for file in once.glob("*.safetensors"):
        assert file.read_bytes() == (twice / file.name).read_bytes()
    model, tokenizer = adapted.load(base, [first, second], dtype=torch.float32)
    state = checkpoint.load(once, dtype=torch.float32).state_dict()
    assert all(torch.equal(model.state_dict()[name], state[name]) for name in state)
    assert tokenizer.get_vocab() == adapted.load(twice, dtype=torch.float32)[1].get_vocab()
