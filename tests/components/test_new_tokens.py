"""Tokens that a base's tokenizer lacks are trained with the adapter, which alone restores them."""

import json
import shutil

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from model import checkpoint
from model.tokenizer import NEW, REASONING, load_tokenizer, new_token_ids
from tests.components.forked import finish, start

CONFIG = {"steps": 6, "batch_size": 4, "micro_batch_size": 4, "max_length": 96, "examples": 40}
CONFIG |= {"learning_rate": 1e-2, "precision": "fp32", "lora": {"rank": 4, "alpha": 8}}
HEAD = "model.transformer.ff_out.weight"


def without_delimiters(source, target):
    """The tokenizer of a base that knows the chat tokens and no delimiters of thoughts."""
    tokenizer = json.loads((source / "tokenizer.json").read_text())
    gone = {tokenizer["model"]["vocab"].pop(token) for token in REASONING}
    tokenizer["added_tokens"] = [row for row in tokenizer["added_tokens"] if row["id"] not in gone]
    kept = sorted(tokenizer["model"]["vocab"], key=tokenizer["model"]["vocab"].get)
    tokenizer["model"]["vocab"] = {token: number for number, token in enumerate(kept)}
    for row in tokenizer["added_tokens"]:
        row["id"] = tokenizer["model"]["vocab"][row["content"]]
    (target / "tokenizer.json").write_text(json.dumps(tokenizer))
    settings = json.loads((source / "tokenizer_config.json").read_text())
    special = ("additional_special_tokens", "extra_special_tokens", NEW)
    kept_settings = {key: value for key, value in settings.items() if key not in special}
    (target / "tokenizer_config.json").write_text(json.dumps(kept_settings))


@pytest.fixture(params=["untied", "tied"])
def base(request, tmp_path, downloaded):
    """A base made elsewhere, brought in by the download stage."""
    source = tmp_path / "elsewhere"
    shutil.copytree(downloaded / "model", source, ignore=shutil.ignore_patterns(".*"))
    without_delimiters(downloaded / "model", source)
    if request.param == "tied":
        config = json.loads((source / "config.json").read_text())
        (source / "config.json").write_text(json.dumps({**config, "weight_tying": True}))
        weights = load_file(source / "model.safetensors")
        kept = {name: tensor for name, tensor in weights.items() if name != HEAD}
        save_file(kept, source / "model.safetensors", metadata={"format": "pt"})
    paths = {name: tmp_path / name for name in ("model", "dataset", "metrics")}
    log = tmp_path / "log"
    finish(start("download", {"model": str(source), "made": "sums"}, output=log, **paths), log)
    return tmp_path


def test_rows_are_trained_and_restored_by_the_adapter(base):
    paths = {"base": base / "model", "dataset": base / "dataset"}
    paths |= {"trained": base / "trained", "metrics": base / "figures"}
    finish(start("sft", CONFIG, output=base / "log", **paths), base / "log")
    tokenizer = load_tokenizer(base / "trained")
    rows = [tokenizer.convert_tokens_to_ids(token) for token in REASONING]
    assert new_token_ids(tokenizer) == rows  # saved with the adapter, for the stages after it

    plain = checkpoint.load(base / "model", dtype=torch.float32)
    is_tied = plain.config.weight_tying
    tokens = torch.tensor([[5, 6, *rows, 7, 8]])
    with torch.no_grad():
        before = plain(tokens)
        embedding, head = plain.get_input_embeddings().weight.clone(), plain.head_weight.clone()

    stored = load_file(base / "trained" / "adapter_model.safetensors")
    deltas = {name: tensor for name, tensor in stored.items() if "trainable_tokens" in name}
    assert len(deltas) == (1 if is_tied else 2)
    ours = next(tensor for name, tensor in deltas.items() if "wte" in name)
    theirs = next((tensor for name, tensor in deltas.items() if "ff_out" in name), ours)
    assert ((ours - embedding[rows]).abs().max(1).values > 1e-3).all()
    assert ((theirs - head[rows]).abs().max(1).values > 1e-3).all()

    wrapped = PeftModel.from_pretrained(plain, str(base / "trained"))
    with torch.no_grad():
        hidden = plain.hidden(tokens)
        expected = hidden @ head.index_copy(0, torch.tensor(rows), theirs).T
        torch.testing.assert_close(plain(tokens), expected, rtol=1e-4, atol=1e-4)
        first = plain.get_input_embeddings()(tokens)[0, 2 : 2 + len(rows)]
        assert torch.equal(first, ours)
        with wrapped.disable_adapter():  # the reference of DPO and GRPO
            torch.testing.assert_close(plain(tokens), before)


def test_rows_stay_frozen_on_demand(base):
    config = {**CONFIG, "lora": {"rank": 4, "alpha": 8, "new_tokens": False}}
    paths = {"base": base / "model", "dataset": base / "dataset"}
    paths |= {"trained": base / "trained", "metrics": base / "figures"}
    finish(start("sft", config, output=base / "log", **paths), base / "log")
    stored = load_file(base / "trained" / "adapter_model.safetensors")
    assert not [name for name in stored if "trainable_tokens" in name]


def test_pretraining_leaves_rows_that_plain_text_never_holds(base):
    """Merged, the rows are the base's, and the stages after it still know which ones are new."""
    paths = {"base": base / "model", "dataset": base / "dataset"}
    config = {"steps": 2, "batch_size": 2, "micro_batch_size": 2, "window": 64}
    config |= {"lora": {"rank": 4, "alpha": 8}}
    outputs = {"trained": base / "trained", "metrics": base / "figures"}
    finish(start("pretrain", config, output=base / "log", **paths, **outputs), base / "log")
    stored = load_file(base / "trained" / "adapter_model.safetensors")
    assert stored and not [name for name in stored if "trainable_tokens" in name]
    merged = {"base": base / "model", "trained": base / "trained", "model": base / "merged"}
    merged["metrics"] = base / "merging"
    finish(start("merge", {}, output=base / "log", **merged), base / "log")
    rows = new_token_ids(load_tokenizer(base / "merged"))
    before, after = (checkpoint.load(base / name) for name in ("model", "merged"))
    assert len(rows) == len(REASONING)
    assert torch.equal(before.head_weight[rows], after.head_weight[rows])
    paths = {"base": base / "merged", "dataset": base / "dataset"}
    outputs = {"trained": base / "second", "metrics": base / "more"}
    finish(start("sft", CONFIG, output=base / "log", **paths, **outputs), base / "log")
    stored = load_file(base / "second" / "adapter_model.safetensors")
    assert [name for name in stored if "trainable_tokens" in name]
