"""Adapters applied in memory give the merged model bit for bit; other bases' are refused."""

import shutil

import pytest
import torch

from components import adapted as adapting
from components import artifact
from components.merge import stage as merging_stage
from components.merge.config import MergeConfig
from model import checkpoint, lora, merging
from tests.components.test_merge import network, recorded, trained
from tests.components.test_tied_merge import store_head
from tests.conftest import stage

TOKENS = torch.arange(20)[None]
KINDS = [
    {},
    {"use_rslora": True},
    {"use_dora": True},
    {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"blocks.1.v_proj": 5}},
    {"trainable_token_indices": [3, 69, 4]},
    {"trainable_token_indices": {"wte": [3, 69, 4], "transformer.ff_out": [5, 69]}},
    {"modules_to_save": ["wte", "ln_f"]},
]


def merge(base, adapter, model):
    """The merge stage's own files."""
    model.mkdir()
    merging_stage.merge(base, [adapter], model)
    return model


def logits(model):
    with torch.no_grad():
        return model(TOKENS)


def equal(merged, base, adapters, dtype=torch.float32):
    """Whether the base with the adapters is the merged model, in all weights and in its logits."""
    expected = checkpoint.load(merged, dtype=dtype)
    found = checkpoint.load(base, dtype=dtype)
    before = {name: tensor.clone() for name, tensor in found.state_dict().items()}
    merging.apply(found, base, adapters)
    state = found.state_dict()
    assert state.keys() == expected.state_dict().keys()
    for name, tensor in expected.state_dict().items():
        assert state[name].dtype == dtype and torch.equal(state[name], tensor), name
    assert torch.equal(logits(found), logits(expected))
    assert any(not torch.equal(before[name], tensor) for name, tensor in state.items())


@pytest.mark.parametrize("settings", KINDS, ids=str)
@pytest.mark.parametrize(
    ("stored", "loaded"),
    [
        (torch.float32, torch.float32),
        (torch.bfloat16, torch.bfloat16),
        (torch.bfloat16, torch.float32),  # rounded as it is stored, and not as it is loaded
        (torch.float32, torch.bfloat16),
    ],
    ids=str,
)
def test_logits_are_the_merged_models(tmp_path, settings, stored, loaded):
    checkpoint.save(network(stored), tmp_path / "base")
    trained(network(stored), **settings).save_pretrained(tmp_path / "adapter")
    merged = merge(tmp_path / "base", tmp_path / "adapter", tmp_path / "model")
    equal(merged, tmp_path / "base", [tmp_path / "adapter"], loaded)


@pytest.mark.parametrize("has_head", [False, True])
@pytest.mark.parametrize(
    "settings", [{}, {"use_dora": True}, {"trainable_token_indices": [3, 69]}], ids=str
)
def test_tied_heads(tmp_path, settings, has_head):
    checkpoint.save(network(weight_tying=True), tmp_path / "base")
    if has_head:
        store_head(tmp_path / "base")
    trained(network(weight_tying=True), **settings).save_pretrained(tmp_path / "adapter")
    merged = merge(tmp_path / "base", tmp_path / "adapter", tmp_path / "model")
    equal(merged, tmp_path / "base", [tmp_path / "adapter"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_several_in_their_order(tmp_path, dtype):
    """Rounded after each, as merge after merge; DoRA after LoRA is not LoRA after DoRA."""
    checkpoint.save(network(dtype), tmp_path / "base")
    for name, settings in (("first", {}), ("second", {"use_dora": True})):
        trained(network(dtype), **settings).save_pretrained(tmp_path / name)
    order = [tmp_path / "first", tmp_path / "second"]
    half = merge(tmp_path / "base", order[0], tmp_path / "half")
    equal(merge(half, order[1], tmp_path / "model"), tmp_path / "base", order)
    other = checkpoint.load(tmp_path / "base", dtype=torch.float32)
    merging.apply(other, tmp_path / "base", order[::-1])
    assert not torch.equal(logits(other), logits(checkpoint.load(tmp_path / "model", dtype=dtype)))


def test_an_extended_context_comes_along(tmp_path):
    checkpoint.save(network(max_sequence_length=64), tmp_path / "base")
    model = network(max_sequence_length=64)
    trained(model).save_pretrained(tmp_path / "adapter")
    model.config.extend(128)
    model.config.save_pretrained(tmp_path / "adapter")
    merged = merge(tmp_path / "base", tmp_path / "adapter", tmp_path / "model")
    equal(merged, tmp_path / "base", [tmp_path / "adapter"])
    found = checkpoint.load(tmp_path / "base", dtype=torch.float32)
    logits(found)  # also where the tables of positions were made before
    merging.apply(found, tmp_path / "base", [tmp_path / "adapter"])
    assert found.config.max_sequence_length == 128
    assert torch.equal(logits(found), logits(checkpoint.load(merged, dtype=torch.float32)))


def test_the_files_of_the_base_are_left_alone(tmp_path):
    checkpoint.save(network(), tmp_path / "base")
    trained(network()).save_pretrained(tmp_path / "adapter")
    before = artifact.checksum(tmp_path / "base" / "model.safetensors")
    merging.apply(
        checkpoint.load(tmp_path / "base", dtype=torch.float32),
        tmp_path / "base",
        [tmp_path / "adapter"],
    )
    assert artifact.checksum(tmp_path / "base" / "model.safetensors") == before


def test_an_adapter_that_does_not_fit_changes_nothing(tmp_path):
    checkpoint.save(network(), tmp_path / "base")
    trained(network()).save_pretrained(tmp_path / "good")
    trained(network(n_kv_heads=2)).save_pretrained(tmp_path / "bad")
    model = checkpoint.load(tmp_path / "base", dtype=torch.float32)
    before = logits(model)
    with pytest.raises(ValueError, match=r"bad: tensor .*v_proj.*has shape"):
        merging.apply(model, tmp_path / "base", [tmp_path / "good", tmp_path / "bad"])
    assert torch.equal(logits(model), before)


def test_stages_adapters_by_their_records(tmp_path, downloaded, adapted_base, adapted):
    """Its own base fits; another of the same shapes does not, and its merged copy only after it."""
    base, first = downloaded / "model", adapted / "trained"
    second = adapted_base / "second" / "trained"
    network, tokenizer = load(base, [first])
    expected = checkpoint.load(adapted_base / "model", dtype=torch.float32)
    assert torch.equal(logits(network), logits(expected))
    assert tokenizer.get_vocab()
    load(base, [first, second])
    load(adapted_base / "model", [second])
    for wrong in ([second], [second, first]):
        with pytest.raises(
            ValueError, match=r"second.*was trained on base .*, allowed: an adapter"
        ):
            load(base, wrong)
    with pytest.raises(ValueError, match="was trained on base"):
        load(adapted_base / "model", [first])


def load(base, adapters):
    return adapting.load(base, adapters, dtype=torch.float32)


@pytest.fixture(scope="module")
def adapted_base(downloaded, adapted, tmp_path_factory):
    """The merged model of the first adapter, and `second`, an adapter that was trained on it."""
    root = tmp_path_factory.mktemp("merged")
    stage(
        "merge",
        base=downloaded / "model",
        trained=adapted / "trained",
        model=root / "model",
        metrics=root / "metrics",
    )
    config = {"steps": 1, "batch_size": 2, "micro_batch_size": 2, "max_length": 64}
    stage(
        "sft",
        {**config, "lora": {"rank": 2, "alpha": 4}},
        base=root / "model",
        dataset=downloaded / "dataset",
        trained=root / "second" / "trained",
        metrics=root / "second" / "metrics",
    )
    return root


def test_a_release_is_its_model(tmp_path, downloaded, adapted):
    """An adapter of a model is one of its release too, whose files are more."""
    release = tmp_path / "release"
    shutil.copytree(downloaded / "model", release)
    (release / artifact.RECORD).unlink()
    (release / "README.md").write_text("a card")
    inputs = {"model": downloaded / "model"}
    artifact.record(
        {"release": release}, stage="release", config=MergeConfig(), inputs=inputs, summary={}
    )
    assert (
        artifact.read(release)["fingerprint"] != artifact.read(downloaded / "model")["fingerprint"]
    )
    load(release, [adapted / "trained"])


@pytest.mark.parametrize("what", ["nothing", "model"])
def test_what_is_no_adapter(tmp_path, what):
    checkpoint.save(network(), tmp_path / "model")
    recorded(tmp_path / "model", "model")
    with pytest.raises(ValueError, match=rf"adapter='.*{what}', allowed: .*{lora.CONFIG}"):
        load(tmp_path / "model", [tmp_path / what])
