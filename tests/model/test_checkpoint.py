"""Checkpoints: upstream's names and keys, exact round trips, and everything damaged refused."""

import json
import re
import warnings

import pytest
import torch
from huggingface_hub import split_torch_state_dict_into_shards
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from model import checkpoint, safetensors_files
from model.config import LLaDAConfig
from model.llada import LLaDA
from tests.model.test_golden import GOLDEN

SHAPE = dict(d_model=64, n_heads=4, n_layers=3, mlp_hidden_size=96, vocab_size=320)
IDS = dict(mask_token_id=319, eos_token_id=1, pad_token_id=1, max_sequence_length=128)
NORM = "model.transformer.ln_f.weight"
# config.json of LLaDA-8B-Base, -Instruct and 1.5.
UPSTREAM = {
    "activation_type": "silu",
    "alibi": False,
    "architectures": ["LLaDAModelLM"],
    "attention_dropout": 0.0,
    "attention_layer_norm": False,
    "auto_map": {
        "AutoConfig": "configuration_llada.LLaDAConfig",
        "AutoModel": "modeling_llada.LLaDAModelLM",
    },
    "bias_for_layer_norm": False,
    "block_group_size": 1,
    "block_type": "llama",
    "d_model": 4096,
    "embedding_dropout": 0.0,
    "embedding_size": 126464,
    "eos_token_id": 126081,
    "flash_attention": False,
    "include_bias": False,
    "include_qkv_bias": False,
    "init_device": "meta",
    "init_fn": "mitchell",
    "input_emb_norm": False,
    "layer_norm_type": "rms",
    "layer_norm_with_affine": True,
    "mask_token_id": 126336,
    "max_sequence_length": 4096,
    "mlp_hidden_size": 12288,
    "mlp_ratio": 4,
    "model_type": "llada",
    "multi_query_attention": None,
    "n_heads": 32,
    "n_kv_heads": 32,
    "n_layers": 32,
    "pad_token_id": 126081,
    "precision": "amp_bf16",
    "residual_dropout": 0.0,
    "rms_norm_eps": 1e-05,
    "rope": True,
    "rope_full_precision": True,
    "rope_theta": 500000.0,
    "scale_logits": False,
    "use_cache": False,
    "vocab_size": 126464,
    "weight_tying": False,
}
NEWER = {"n_kv_heads": 8, "weight_tying": True, "vocab_size": 155136, "mlp_hidden_size": 14336}
NEWER |= {"embedding_size": None, "max_sequence_length": 8192, "mask_token_id": 5}


def small(**changes):
    torch.manual_seed(0)
    return LLaDA(LLaDAConfig(**{**SHAPE, **IDS, **changes})).eval()


def on_meta(values):
    config = {key: value for key, value in values.items() if key != "model_type"}
    with torch.device("meta"):
        return LLaDA(LLaDAConfig(**config)).to(torch.bfloat16)


def saved(path, model=None, **options):
    checkpoint.save(model or small(), path, **options)
    return path


def expected_shapes():
    """Names and shapes of the 8B model, by pattern."""
    square, wide = (4096, 4096), (12288, 4096)
    block = {name: square for name in ("q_proj", "k_proj", "v_proj", "attn_out")}
    block |= {"attn_norm": (4096,), "ff_norm": (4096,)}
    block |= {"ff_proj": wide, "up_proj": wide, "ff_out": wide[::-1]}
    found = {
        f"model.transformer.blocks.{layer}.{name}.weight": shape
        for layer in range(32)
        for name, shape in block.items()
    }
    table = (126464, 4096)
    return found | {
        "model.transformer.wte.weight": table,
        "model.transformer.ln_f.weight": (4096,),
        "model.transformer.ff_out.weight": table,
    }


def test_8b_has_upstreams_tensors():
    state = on_meta(UPSTREAM).state_dict()
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == expected_shapes()
    assert len(state) == 291
    assert sum(tensor.numel() for tensor in state.values()) == 8_015_581_184
    split = split_torch_state_dict_into_shards(state, max_shard_size="4GB")
    assert split.metadata["total_size"] == 16_031_162_368
    assert set(split.tensor_to_filename) == set(expected_shapes())


def test_upstreams_config_comes_back_with_the_same_keys(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(UPSTREAM))
    checkpoint.read_config(tmp_path).save_pretrained(tmp_path / "again")
    again = json.loads((tmp_path / "again" / "config.json").read_text())
    assert {key: again[key] for key in UPSTREAM} == UPSTREAM
    assert not [key for key in again if "yarn" in key]


def test_config_of_a_new_model_says_all_that_upstream_reads(tmp_path):
    saved(tmp_path, small(n_kv_heads=2))
    values = json.loads((tmp_path / "config.json").read_text())
    assert UPSTREAM.keys() - values.keys() == {"auto_map"}
    assert values["rope"] is True and values["n_kv_heads"] == 2
    assert LLaDAConfig.from_pretrained(tmp_path).to_diff_dict() == values


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"block_type": "sequential"}, "block_type='sequential', allowed: 'llama'"),
        ({"layer_norm_with_affine": False}, "layer_norm_with_affine=False, allowed: True"),
        ({"rope": False}, "rope=False, yarn=False"),
        ({"n_kv_heads": 5}, "n_kv_heads=5"),
        ({"d_model": "4096"}, "d_model='4096', allowed: a whole number"),
        ({"embedding_size": 100}, "embedding_size=100, allowed: 126464"),
        ({"model_type": "llama"}, "model_type='llama', allowed: 'llada'"),
        ({"yarn_scale": 0.5}, "yarn_scale=0.5, allowed: 1 or more"),
    ],
)
def test_other_architectures_are_refused(tmp_path, changes, message):
    (tmp_path / "config.json").write_text(json.dumps(UPSTREAM | changes))
    with pytest.raises(ValueError, match=re.escape(message)):
        checkpoint.read_config(tmp_path)


def test_key_value_heads_and_feed_forward_width_may_be_left_out():
    config = LLaDAConfig(**{**SHAPE, "mlp_hidden_size": None}, multi_query_attention=True)
    assert (config.n_kv_heads, config.mlp_hidden_size) == (1, 256)


def test_newer_family_member():
    state = on_meta(UPSTREAM | NEWER).state_dict()
    assert state["model.transformer.blocks.0.k_proj.weight"].shape == (1024, 4096)
    assert state["model.transformer.blocks.31.up_proj.weight"].shape == (14336, 4096)
    assert state["model.transformer.wte.weight"].shape == (155136, 4096)
    assert checkpoint.HEAD not in state and len(state) == 290


def test_newer_family_member_computes(tmp_path):
    model = small(n_kv_heads=2, weight_tying=True, mask_token_id=5)
    loaded = checkpoint.load(saved(tmp_path, model), dtype=torch.float32)
    tokens = torch.arange(20)[None]
    with torch.no_grad():
        assert torch.equal(loaded(tokens), model(tokens))
    assert loaded.config.mask_token_id == 5


@pytest.mark.parametrize("changes", [{}, {"n_kv_heads": 2}, {"weight_tying": True}])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_saved_model_loads_bit_for_bit(tmp_path, changes, dtype):
    model = small(**changes).to(dtype)
    for size in ("4GB", 100_000):
        path = saved(tmp_path / str(size), model, shard_size=size)
        loaded = checkpoint.load(path, dtype=dtype).state_dict()
        wide = checkpoint.load(path, dtype=torch.float32).state_dict()
        theirs = LLaDA.from_pretrained(path, dtype=dtype).state_dict()
        for name, tensor in model.state_dict().items():
            assert torch.equal(loaded[name], tensor), name
            assert torch.equal(wide[name], tensor.float()), name
            assert torch.equal(theirs[name], tensor), name
    assert (tmp_path / "100000" / safetensors_files.INDEX).exists()
    assert not (tmp_path / "4GB" / safetensors_files.INDEX).exists()


@settings(
    deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    heads=st.sampled_from([(4, 1), (4, 2), (2, 2)]),
    layers=st.integers(1, 3),
    vocabulary=st.integers(8, 40),
    spare=st.integers(0, 5),
    tied=st.booleans(),
    size=st.integers(2_000, 60_000),
)
def test_any_shape_survives(tmp_path, heads, layers, vocabulary, spare, tied, size):
    shape = dict(d_model=16, mlp_hidden_size=24, n_layers=layers, weight_tying=tied)
    counts = dict(n_heads=heads[0], n_kv_heads=heads[1])
    rows = dict(vocab_size=vocabulary, embedding_size=vocabulary + spare)
    model = LLaDA(LLaDAConfig(**shape, **counts, **rows))
    loaded = checkpoint.load(saved(tmp_path, model, shard_size=size), dtype=torch.float32)
    assert loaded.state_dict().keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    assert loaded.config.embedding_size == vocabulary + spare


def test_golden_config_survives_a_round_trip(tmp_path):
    checkpoint.save(checkpoint.load(GOLDEN), tmp_path)
    before = json.loads((GOLDEN / "config.json").read_text())
    after = json.loads((tmp_path / "config.json").read_text())
    assert {key: after[key] for key in before} == before


def test_weights_are_readable_by_others(tmp_path):
    saved(tmp_path)
    assert (tmp_path / safetensors_files.SINGLE).stat().st_mode == (
        tmp_path / "config.json"
    ).stat().st_mode


def test_saving_over_what_is_loaded(tmp_path):
    """The loaded weights are mapped from files that the second save replaces."""
    saved(tmp_path, shard_size=100_000)
    loaded = checkpoint.load(tmp_path, dtype=torch.float32)
    before = {name: tensor.clone() for name, tensor in loaded.state_dict().items()}
    loaded.model["transformer"]["ln_f"].weight.data.add_(1)
    checkpoint.save(loaded, tmp_path)
    assert not (tmp_path / safetensors_files.INDEX).exists()
    again = checkpoint.load(tmp_path, dtype=torch.float32).state_dict()
    for name, tensor in before.items():
        assert torch.equal(again[name], tensor + 1 if name == NORM else tensor), name


def test_yarn_of_the_wild_survives(tmp_path):
    wild = {"rope": False, "yarn": True, "yarn_scale": 2.0, "max_sequence_length": 8192}
    wild |= {"yarn_original_max_position_embeddings": 4096, "yarn_extrapolation_factor": 1}
    wild |= {"yarn_attn_factor": 1, "rope_full_precision": False}
    swapped = {"yarn_beta_fast": 1.0, "yarn_beta_slow": 32.0}
    (tmp_path / "config.json").write_text(json.dumps(UPSTREAM | wild | swapped))
    with pytest.warns(UserWarning, match="swapped back"):
        config = checkpoint.read_config(tmp_path)
    config.save_pretrained(tmp_path)
    after = json.loads((tmp_path / "config.json").read_text())
    assert {key: after[key] for key in wild} == wild
    assert (after["yarn_beta_fast"], after["yarn_beta_slow"]) == (32.0, 1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert checkpoint.read_config(tmp_path).to_dict() == config.to_dict()
