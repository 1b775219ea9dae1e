"""Merging equals W + (alpha / r) B A in fp32, through the real command line."""

import torch
from safetensors.torch import load_file

from components import artifact
from model import checkpoint, lora
from tests.conftest import stage


def test_merge_is_exact(tmp_path, downloaded, adapted):
    stage(
        "merge",
        base=downloaded / "model",
        adapter=adapted / "adapter",
        model=tmp_path / "model",
        metrics=tmp_path / "metrics",
    )
    base = load_file(downloaded / "model" / "model.safetensors")
    merged = load_file(tmp_path / "model" / "model.safetensors")
    updates = lora.updates(adapted / "adapter")
    assert len(updates) == 8  # four layers in each of two blocks
    assert merged.keys() == base.keys()
    for name, weight in base.items():
        expected = (weight.float() + updates[name]).to(weight.dtype) if name in updates else weight
        assert torch.equal(merged[name], expected), name
    assert any(not torch.equal(merged[name], base[name]) for name in updates)


def test_merged_model_computes_what_the_adapter_does(tmp_path, downloaded, adapted):
    stage(
        "merge",
        base=downloaded / "model",
        adapter=adapted / "adapter",
        model=tmp_path / "model",
        metrics=tmp_path / "metrics",
    )
    model = checkpoint.load(downloaded / "model", dtype=torch.float32)
    tokens = torch.arange(12)[None] + 20
    merged = checkpoint.load(tmp_path / "model", dtype=torch.float32)(tokens)
    wrapped = lora.attach(
        model, rank=4, alpha=8, dropout=0.0, targets=("q_proj", "k_proj", "v_proj", "attn_out")
    )
    weights = load_file(adapted / "adapter" / lora.WEIGHTS)
    named = {name.replace(".weight", ".default.weight"): w for name, w in weights.items()}
    missing = wrapped.load_state_dict(named, strict=False)
    assert not missing.unexpected_keys
    assert (model(tokens) - merged).abs().max() < 1e-5


def test_lineage_reaches_the_download(tmp_path, downloaded, adapted):
    stage(
        "merge",
        base=downloaded / "model",
        adapter=adapted / "adapter",
        model=tmp_path / "model",
        metrics=tmp_path / "metrics",
    )
    record = artifact.verify(tmp_path / "model")
    ancestors = [(entry["stage"], entry["output"]) for entry in record["lineage"]]
    assert ancestors == [
        ("download", "model"),
        ("download", "dataset"),
        ("sft", "adapter"),
        ("merge", "model"),
    ]
