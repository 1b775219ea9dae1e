"""A tied base whose file holds the head too: what is merged loads, and both are what is trained."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from components import artifact
from model import checkpoint, lora, safetensors_files
from model.llada import LLaDA
from tests.components.test_merge import BLOCKS, merged, network, recorded, run, trained, weights
from tests.components.test_merge_refusals import refused, tensors

EMBEDDING, HEAD = checkpoint.EMBEDDING, checkpoint.HEAD


def store_head(path, dtype=None):
    """Writes the embedding a second time, as the head, into a model's file."""
    file = path / safetensors_files.SINGLE
    state = load_file(file)
    state[HEAD] = state[EMBEDDING].to(dtype or state[EMBEDDING].dtype, copy=True)
    save_file(state, file, metadata={"format": "pt"})


def merge_tied(root, dtype=torch.float32, head_dtype=None, **settings):
    """Merges what `trained` gives on a tied base with its head; returns logits before and after."""
    wrapped = trained(network(dtype, weight_tying=True), **settings)
    tokens = torch.arange(20)[None]
    checkpoint.save(network(dtype, weight_tying=True), root / "base")
    store_head(root / "base", head_dtype)
    wrapped.save_pretrained(root / "trained")
    recorded(root / "base", "base")
    recorded(root / "trained", "trained")
    run(root)
    with torch.no_grad():
        expected = wrapped.float()(tokens)
        return expected, checkpoint.load(root / "model", dtype=torch.float32)(tokens)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"use_dora": True},
        {"trainable_token_indices": [3, 69]},
        {"modules_to_save": ["wte"]},
        {"modules_to_save": ["wte"], "use_dora": True},
    ],
    ids=str,
)
def test_the_merged_model_is_the_trained_one(tmp_path, settings):
    expected, found = merge_tied(tmp_path, **settings)
    assert (expected - found).abs().max() < 1e-4
    after = weights(tmp_path / "model")
    assert torch.equal(after[HEAD], after[EMBEDDING])


def test_head_in_another_precision(tmp_path):
    merge_tied(tmp_path, torch.bfloat16, torch.float32, trainable_token_indices=[3, 69])
    after = weights(tmp_path / "model")
    assert after[HEAD].dtype == torch.float32 and after[EMBEDDING].dtype == torch.bfloat16
    assert torch.equal(after[HEAD], after[EMBEDDING].float())


def test_full_training_of_a_tied_base(tmp_path):
    checkpoint.save(network(weight_tying=True), tmp_path / "base")
    store_head(tmp_path / "base")
    torch.manual_seed(9)
    checkpoint.save(LLaDA(network(weight_tying=True).config), tmp_path / "trained")
    recorded(tmp_path / "base", "base")
    recorded(tmp_path / "trained", "trained")
    run(tmp_path)
    assert weights(tmp_path / "model").keys() == weights(tmp_path / "trained").keys()
    checkpoint.load(tmp_path / "model")


def test_an_adapter_of_the_head_is_refused(tmp_path, capsys):
    """There is no such weight to be trained: the head of a tied model is its embedding."""
    head = f"{lora.PREFIX}{HEAD.removesuffix('.weight')}"
    pair = {f"{head}.lora_A.weight": torch.ones(4, 32), f"{head}.lora_B.weight": torch.ones(70, 4)}
    tied = network(weight_tying=True)
    wrapped = trained(tied, target_modules=BLOCKS)

    def change(adapter):
        store_head(tmp_path / "base")
        tensors(lambda state: state.update(pair))(adapter)

    def attempt():
        merged(tmp_path, network(weight_tying=True), wrapped, change=change)

    refused(tmp_path, capsys, attempt, HEAD, "which the base does not have")


@pytest.mark.parametrize("whole", [True, False])
def test_what_was_merged_is_loaded_before_it_is_recorded(tmp_path, capsys, whole):
    """Also a model that was trained in full; here its head is not the embedding that it is tied to.

    Such files came out of earlier merges, whose records are in order.
    """
    tied = network(weight_tying=True)
    for name in ("base", "trained") if whole else ("base",):
        checkpoint.save(tied, tmp_path / name)
        store_head(tmp_path / name)
        state = load_file(tmp_path / name / safetensors_files.SINGLE)
        state[HEAD][3] += 1
        save_file(state, tmp_path / name / safetensors_files.SINGLE)
        recorded(tmp_path / name, name)
    if not whole:
        trained(tied).save_pretrained(tmp_path / "trained")
        recorded(tmp_path / "trained", "trained")
    refused(tmp_path, capsys, lambda: run(tmp_path), "is no model", HEAD, "differs from")
    assert not (tmp_path / "metrics" / artifact.RECORD).exists()
