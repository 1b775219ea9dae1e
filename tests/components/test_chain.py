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
    "precision": "fp32",
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


@pytest.fixture(scope="module")
def data(downloaded):
    return downloaded / "dataset"


def equal(ours, theirs):
    return (ours / WEIGHTS).read_bytes() == (theirs / WEIGHTS).read_bytes()


def losses(trained):
    lines = (trained.parent / "metrics" / artifact.METRICS).read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


def merge(root, name, **inputs):
    stage("merge", **inputs, model=root / name, metrics=root / f"{name}-metrics")
    return root / name


@pytest.mark.parametrize("kind", KINDS)
def test_training_and_merging_are_those_of_a_merged_copy(kind, tmp_path, data, downloaded, tied):
    """All adapters merged at once give the file of merge after merge."""
    base = tied if kind == "tied" else downloaded / "model"
    first = train(tmp_path, "first", base, data, KINDS[kind], steps=1)
    half = merge(tmp_path, "half", base=base, trained=first)
    second = train(tmp_path, "second", base, data, adapters=first)
    merged = train(tmp_path, "merged", half, data)
    assert equal(second, merged) and losses(second) == losses(merged)
    once = merge(tmp_path, "once", base=base, adapters=first, trained=second)
    twice = merge(tmp_path, "twice", base=half, trained=merged)
    names = [sorted(file.name for file in path.iterdir()) for path in (once, twice)]
    assert names[0] == names[1]
    for file in once.glob("*.safetensors"):
        assert file.read_bytes() == (twice / file.name).read_bytes()
        assert file.read_bytes() != (half / file.name).read_bytes()
    model, tokenizer = adapted.load(base, [first, second], dtype=torch.float32)
    state = checkpoint.load(once, dtype=torch.float32).state_dict()
    assert all(torch.equal(model.state_dict()[name], state[name]) for name in state)
    assert tokenizer.get_vocab() == adapted.load(twice, dtype=torch.float32)[1].get_vocab()


def test_resuming_is_that_of_an_uninterrupted_run(tmp_path, data, downloaded):
    """The checkpoint holds the new adapter alone; base and earlier adapters are applied anew."""
    base, place = downloaded / "model", {"checkpoint_uri": str(tmp_path / "checkpoints")}
    first = train(tmp_path, "first", base, data, steps=1)
    whole = train(tmp_path, "whole", base, data, adapters=first, **place)
    (run,) = (tmp_path / "checkpoints").iterdir()
    shutil.rmtree(run / "step-00000002")
    again = train(tmp_path, "again", base, data, adapters=first, **place)
    assert equal(again, whole) and losses(again) == losses(whole)
    assert len(list((tmp_path / "checkpoints").iterdir())) == 1
    alone = train(tmp_path, "alone", base, data, **place)
    assert not equal(alone, whole)
    assert len(list((tmp_path / "checkpoints").iterdir())) == 2, "another run, by its inputs"


def test_an_adapter_without_the_one_before_it(tmp_path, data, downloaded):
    """Refused by fingerprints, before anything is loaded; a release takes the evaluated chain."""
    base = downloaded / "model"
    first = train(tmp_path, "first", base, data, steps=1)
    second = train(tmp_path, "second", base, data, adapters=first, steps=1)
    for adapters in ([second], [second, first]):
        with pytest.raises(
            ValueError, match=r"was trained on base \w+ \+ \w+, allowed: an adapter"
        ):
            adapted.check(base, adapters)
    with pytest.raises(ValueError, match="is an adapter, allowed: a whole model"):
        adapted.check(first, [second])
    adapted.check(base, [first, second])
    half = merge(tmp_path, "half", base=base, trained=first)
    adapted.check(half, [second])
    merged = merge(tmp_path, "merged", base=base, adapters=first, trained=second)
    paths = {name: tmp_path / "evaluate" / name for name in ("evaluation", "metrics")}
    chain = {"model": base, "adapters": [first, second]}
    config = {"gen_length": 8, "block_length": 8, "limit": 2, "traces": 1}
    stage("evaluate", config, dataset=data, **chain, **paths)
    for model, code in ((half, 2), (merged, 0)):
        out = tmp_path / f"out-{code}"
        given = {"model": model, "evaluation": paths["evaluation"]}
        outputs = {"release": out / "release", "metrics": out / "metrics"}
        done = stage("release", {"accuracy": 0}, check=False, **given, **outputs)
        assert done.returncode == code, done.stderr
        assert ("evaluation='of model" in done.stderr) == (code == 2)
