"""config.json from a stranger: unknown keys are dropped, sizes and values are bounded, at once."""

import json
import time

import pytest
import torch
from peft.utils.other import get_pattern_key

from model import adapter_settings, checkpoint
from model.adapter_settings import PATTERN, Settings
from model.config import LLaDAConfig, read_config
from model.lora import CONFIG
from tests.model.test_checkpoint import UPSTREAM, saved, small

STRANGE = {
    "attn_implementation": "owner/kernel",
    "_attn_implementation": "owner/kernel",
    "num_labels": 10_000_000,
    "id2label": {str(number): "x" for number in range(1000)},
    "quantization_config": {"quant_method": "bitsandbytes"},
    "trust_remote_code": True,
    "use_kernels": True,
    "custom_pipelines": {"x": {"impl": "module.Class"}},
    "tie_word_embeddings": True,
    "rope_scaling": {"type": "yarn", "factor": 1e9},
    "sub_configs": {"text_config": {}},
    "": 1,
    "__class__": "x",
}


def written(path, changes):
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps(UPSTREAM | changes))
    return path


def test_unknown_keys_are_dropped(tmp_path):
    began = time.monotonic()
    config = read_config(written(tmp_path, STRANGE))
    assert time.monotonic() - began < 5
    plain = read_config(written(tmp_path / "plain", {}))
    assert config.to_dict() == plain.to_dict() and vars(config).keys() == vars(plain).keys()
    assert config.num_labels == plain.num_labels and not config.tie_word_embeddings


def test_a_model_with_unknown_keys_computes_as_without(tmp_path):
    model = small()
    values = json.loads((saved(tmp_path, model) / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(values | STRANGE))
    loaded = checkpoint.load(tmp_path, dtype=torch.float32)
    tokens = torch.arange(20)[None]
    with torch.no_grad():
        assert torch.equal(loaded(tokens), model(tokens))


@pytest.mark.parametrize(
    "changes",
    [
        {"d_model": 2**40, "n_heads": 2**30},
        {"n_layers": 200_000},
        {"n_layers": True},
        {"vocab_size": 10**400},
        {"embedding_size": 1e300},
        {"max_sequence_length": 2**40},
        {"mlp_hidden_size": None, "mlp_ratio": "x" * 1000},
        {"mlp_hidden_size": None, "mlp_ratio": 10**9},
        {"n_heads": [32]},
        {"rope_theta": 0},
        {"rope_theta": 10**400},
        {"rope_theta": float("nan")},
        {"rms_norm_eps": -1},
        {"rms_norm_eps": "0.00001"},
        {"weight_tying": "yes"},
        {"yarn_scale": "x"},
        {"yarn": True, "yarn_scale": 2.0, "yarn_beta_fast": 0},
        {"yarn": 1},
        {"mask_token_id": [1]},
        {"eos_token_id": {"a": 1}},
        {"pad_token_id": -1},
        {"dtype": "__class__"},
        {"torch_dtype": ["float32"]},
        {"architectures": ["x" * 1000]},
        {"auto_map": {"AutoModel": {"a": {"b": 1}}}},
        {"init_device": [[[]]]},
        {"transformers_version": list(range(1000))},
    ],
    ids=str,
)
def test_values_that_no_model_has_are_refused(tmp_path, changes):
    began = time.monotonic()
    with pytest.raises(ValueError, match=r"config.json: \w+=.*, allowed: ") as error:
        read_config(written(tmp_path, changes))
    assert time.monotonic() - began < 5 and len(str(error.value)) < 1000


def test_a_json_file_is_bounded(tmp_path):
    (written(tmp_path, {}) / "config.json").write_text("[" + "[]," * (12 << 20) + "[]]")
    with pytest.raises(ValueError, match=r"config.json: \d+ bytes, allowed: up to 33554432"):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text('{"d_model": ' + "9" * 5000 + "}")
    with pytest.raises(ValueError, match=r"config.json: not JSON: Exceeds the limit"):
        read_config(tmp_path)


def test_a_layer_count_that_the_files_do_not_have(tmp_path):
    values = json.loads((saved(tmp_path) / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(values | {"n_layers": 900}))
    began = time.monotonic()
    with pytest.raises(ValueError, match="n_layers=900, allowed: up to 30 tensors"):
        checkpoint.load(tmp_path)
    assert time.monotonic() - began < 5


def test_sizes_of_a_new_model_are_bounded():
    with pytest.raises(ValueError, match="n_layers=200000, allowed: a whole number above 0, up to"):
        LLaDAConfig(n_layers=200_000)


USUAL = ["q_proj", r".*\.blocks\.0\.(q_proj|v_proj)", "^model.transformer.blocks.1.ff_out"]
USUAL += [r"blocks\.[0-3]\.\w+", r"blocks\.\d+\.k_proj", "model.transformer.blocks.7.attn_out$"]


@pytest.mark.parametrize("pattern", USUAL)
def test_usual_patterns_match_as_in_peft(tmp_path, pattern):
    settings = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "rank_pattern": {pattern: 4}}
    (tmp_path / CONFIG).write_text(json.dumps(settings))
    own = Settings(tmp_path)
    names = ("q_proj", "v_proj", "k_proj", "ff_out", "attn_out")
    layers = [f"model.transformer.blocks.{n}.{name}" for n in (0, 1, 7, 12) for name in names]
    expected = [4 if get_pattern_key([pattern], layer) == pattern else 8 for layer in layers]
    assert [own.rank(layer) for layer in layers] == expected and 4 in expected


def test_the_time_for_all_patterns_is_bounded(tmp_path, monkeypatch):
    """A thousand of the slowest that are taken, against the layers of a large model."""
    monkeypatch.setattr(adapter_settings, "SECONDS", 1.0)
    slowest = ".*.*.*x"
    assert PATTERN.fullmatch(slowest)
    patterns = {f"{'a?' * 8}{slowest}{number}": 4 for number in range(1000)}
    settings = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "rank_pattern": patterns}
    (tmp_path / CONFIG).write_text(json.dumps(settings))
    own, began = Settings(tmp_path), time.monotonic()
    with pytest.raises(ValueError, match="its patterns take over 1 s"):
        for layer in range(10_000):
            own.rank(f"model.transformer.blocks.{layer}.attn_out")
    assert time.monotonic() - began < 10
