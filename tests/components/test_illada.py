"""An iLLaDA, with Llama's names, its own mask and tied weights, becomes a LLaDA in `download`."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from components.download import illada
from model import checkpoint
from model.config import LLaDAConfig
from model.llada import LLaDA
from model.safetensors_files import INDEX, SINGLE
from model.tokenizer import MASK, encode_chat, load_tokenizer
from tests.components.corpora import prose
from tests.components.test_bad_input import refused
from tests.conftest import stage

SHAPE = {"d_model": 16, "n_heads": 4, "n_kv_heads": 2, "n_layers": 2, "mlp_hidden_size": 24}
POSITIONS = 64


@pytest.fixture(scope="module")
def original(base, tmp_path_factory):
    """A tiny LLaDA with grouped heads and tied weights, and what its files would be as iLLaDA's."""
    root = tmp_path_factory.mktemp("illada")
    ours, theirs = root / "ours", root / "theirs"
    tokenizer = load_tokenizer(base)
    ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.eos_token_id}
    config = LLaDAConfig(
        **SHAPE,
        **ids,
        vocab_size=len(tokenizer),
        max_sequence_length=POSITIONS,
        weight_tying=True,
        mask_token_id=tokenizer.mask_token_id,
    )
    torch.manual_seed(0)
    checkpoint.save(LLaDA(config), ours)
    tokenizer.save_pretrained(ours)
    shutil.copytree(ours, theirs)
    back = {illada.rename(name): name for name in llama_names()}
    weights = load_file(ours / SINGLE)
    save_file({back[name]: tensor for name, tensor in weights.items()}, theirs / SINGLE)
    names = {name: key for key, name in illada.SETTINGS.items()}
    values = {names[name]: getattr(config, name) for name in names}
    values |= {"model_type": "illada", "architectures": [illada.ARCHITECTURE], **ids}
    (theirs / "config.json").write_text(json.dumps(values))
    text = (theirs / "tokenizer.json").read_text()
    (theirs / "tokenizer.json").write_text(text.replace(MASK, illada.MASK))
    settings = json.loads((theirs / "tokenizer_config.json").read_text().replace(MASK, illada.MASK))
    del settings["mask_token"], settings["new_tokens"]
    (theirs / "tokenizer_config.json").write_text(json.dumps(settings))
    return ours, theirs


def llama_names():
    """The names of a model of Hugging Face's, of this shape, by its own code."""
    config = LlamaConfig(
        vocab_size=32,
        hidden_size=SHAPE["d_model"],
        num_hidden_layers=SHAPE["n_layers"],
        num_attention_heads=SHAPE["n_heads"],
        num_key_value_heads=SHAPE["n_kv_heads"],
        intermediate_size=SHAPE["mlp_hidden_size"],
    )
    return LlamaForCausalLM(config).state_dict()


def download(tmp_path, model, *, mirror=None, **options):
    (tmp_path / "rows.jsonl").write_text(json.dumps({"text": prose(60, 0)}) + "\n")
    config = {
        "model": str(model),
        "mirror": mirror,
        "pretrain": [{"location": str(tmp_path / "rows.jsonl")}],
        "sample": {"min_tokens": 1, "long_share": 0},
    }
    outputs = {name: tmp_path / name for name in ("model", "dataset", "metrics")}
    return stage("download", config, **outputs, **options)


def test_it_computes_what_the_same_llada_computes(original, tmp_path):
    ours, theirs = original
    download(tmp_path, theirs)
    network = checkpoint.load(tmp_path / "model")
    tokenizer = load_tokenizer(tmp_path / "model")
    assert tokenizer.mask_token == illada.MASK
    assert tokenizer.mask_token_id == network.config.mask_token_id
    assert (network.config.n_kv_heads, network.config.max_sequence_length) == (2, POSITIONS)
    ids = encode_chat(tokenizer, [{"role": "user", "content": "a tree"}])
    assert ids == encode_chat(load_tokenizer(ours), [{"role": "user", "content": "a tree"}])
    tokens_BL = torch.tensor([[*ids, network.config.mask_token_id]])
    with torch.no_grad():
        expected, found = (model(tokens_BL) for model in (checkpoint.load(ours), network))
    assert torch.equal(found, expected)


def test_names_of_every_tensor(original):
    ours, _ = original
    expected = {*load_file(ours / SINGLE), "model.transformer.ff_out.weight"}
    assert {illada.rename(name) for name in llama_names()} == expected
    assert all(illada.rename(name) == name for name in expected)


def test_an_index_is_renamed_too(original, tmp_path):
    _, theirs = original
    copy = tmp_path / "copy"
    shutil.copytree(theirs, copy)
    files = dict.fromkeys(load_file(copy / SINGLE), SINGLE)
    (copy / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": files}))
    illada.rewrite_settings(copy)
    illada.rewrite_weights(copy)
    assert checkpoint.load(copy).num_parameters() > 0


@pytest.mark.parametrize(
    ("file", "old", "new", "words"),
    [
        ("config.json", '"model_type"', '"attention_bias": true, "model_type"', "attention_bias"),
        ("config.json", "intermediate_size", "middle_size", "intermediate_size"),
        ("config.json", f'"{illada.ARCHITECTURE}"', '"Other"', "architectures=['Other'], allowed"),
        ("tokenizer.json", illada.MASK, "<[COVER]>", "<[MASK]>"),
    ],
)
def test_another_model_is_refused(original, tmp_path, file, old, new, words):
    copy = tmp_path / "copy"
    shutil.copytree(original[1], copy)
    (copy / file).write_text((copy / file).read_text().replace(old, new))
    done = download(tmp_path, copy, check=False)
    refused(done, tmp_path, f"{file}: {words}")


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("num_key_value_heads", 4, "k_proj.weight has shape (8, 16), expected (16, 16)"),
        ("num_hidden_layers", 3, "blocks.2.ff_proj.weight and 4 more"),
    ],
)
def test_weights_of_another_shape_are_refused_by_the_model_s_name(
    original, tmp_path, key, value, words
):
    copy = tmp_path / "copy"
    shutil.copytree(original[1], copy)
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, key: value}))
    done = download(tmp_path, copy, check=False)
    named = f"model={str(copy)!r}, allowed: weights that fit its config.json: "
    refused(done, tmp_path, named)
    assert words in done.stderr


def test_one_below_the_mirror_cannot_stay_there(original, tmp_path):
    """Its tensors would need other names."""
    mirror = tmp_path / "mirror"
    shutil.copytree(original[1], mirror / "illada")
    done = download(tmp_path, mirror / "illada", check=False, mirror=str(mirror))
    refused(done, tmp_path, f"model={str(mirror / 'illada')!r}, allowed: a LLaDA below the mirror")


def test_an_index_without_files_is_refused(original, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(original[1], copy)
    (copy / INDEX).write_text("{}")
    refused(download(tmp_path, copy, check=False), tmp_path, f"{INDEX}: no weight_map")
