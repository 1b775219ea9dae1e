"""The transformer: upstream's shapes and names, masks that mask, and caches that change nothing."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from model import checkpoint
from model.cache import KeyValueCache
from model.config import LLaDAConfig
from model.llada import LLaDA
from tests.model.test_golden import GOLDEN

SHAPE = dict(d_model=64, n_heads=4, n_layers=3, mlp_hidden_size=96, vocab_size=320)
IDS = dict(mask_token_id=319, eos_token_id=1, pad_token_id=1, max_sequence_length=128)


def small(**changes):
    torch.manual_seed(0)
    return LLaDA(LLaDAConfig(**{**SHAPE, **IDS, **changes})).eval()


def test_8b_on_the_meta_device():
    with torch.device("meta"):
        model = LLaDA(LLaDAConfig())
    state = model.state_dict()
    assert len(state) == 291
    assert sum(tensor.numel() for tensor in state.values()) == 8_015_581_184
    assert state["model.transformer.wte.weight"].shape == (126464, 4096)
    assert state["model.transformer.ff_out.weight"].shape == (126464, 4096)
    assert state["model.transformer.blocks.31.ff_proj.weight"].shape == (12288, 4096)
    assert state["model.transformer.blocks.0.ff_out.weight"].shape == (4096, 12288)


def test_newer_family_member_on_the_meta_device():
    config = LLaDAConfig(
        n_kv_heads=8,
        weight_tying=True,
        vocab_size=155136,
        mlp_hidden_size=14336,
        max_sequence_length=8192,
        mask_token_id=5,
    )
    with torch.device("meta"):
        state = LLaDA(config).state_dict()
    assert state["model.transformer.blocks.0.k_proj.weight"].shape == (1024, 4096)
    assert "model.transformer.ff_out.weight" not in state


@pytest.mark.parametrize("changes", [{}, {"n_kv_heads": 2}, {"weight_tying": True}])
def test_saved_model_loads_bit_for_bit(tmp_path, changes):
    model = small(**changes)
    for size in ("4GB", 100_000):
        path = tmp_path / str(size)
        checkpoint.save(model, path, shard_size=size)
        loaded = checkpoint.load(path, dtype=torch.float32)
        for name, tensor in model.state_dict().items():
            assert torch.equal(loaded.state_dict()[name], tensor), name
    assert (tmp_path / "100000" / checkpoint.INDEX).exists()
    assert json.loads((tmp_path / "4GB" / "config.json").read_text())["model_type"] == "llada"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("model.transformer.ln_f.weight"), "missing tensors: .*ln_f"),
        (lambda state: state.update(extra=torch.ones(2)), "unknown tensor extra"),
        (
            lambda state: state.update({"model.transformer.ln_f.weight": torch.ones(3)}),
            r"ln_f.weight has shape \(3,\), expected \(64,\)",
        ),
    ],
)
def test_wrong_tensors_are_named(tmp_path, change, message):
    checkpoint.save(small(), tmp_path)
    state = load_file(tmp_path / checkpoint.SINGLE)
    change(state)
    save_file(state, tmp_path / checkpoint.SINGLE)
    with pytest.raises(ValueError, match=message):
        checkpoint.load(tmp_path)


@pytest.mark.parametrize("changes", [{}, {"n_kv_heads": 2}])
@pytest.mark.parametrize("dual", [True, False])
def test_cached_equals_uncached(changes, dual):
    model = small(**changes)
    tokens = torch.randint(0, 300, (3, 40))
    mask = torch.ones(3, 40, dtype=torch.bool)
    mask[0, :7] = False
    mask[1, :3] = False
    cache = KeyValueCache(model.config, 3, 40, dtype=torch.float32, device=torch.device("cpu"))
    with torch.no_grad():
        full = model.hidden(tokens, mask, cache=cache)
        end = 24 if dual else 40
        block = model.hidden(tokens[:, 16:end], mask, cache=cache, start=16)
    assert (model.head(block) - model.head(full[:, 16:end])).abs().max() < 1e-5


@pytest.mark.parametrize("left", [True, False])
def test_padding_changes_nothing(left):
    model = small()
    tokens = torch.randint(0, 300, (1, 20))
    pad = torch.full((1, 9), 7)
    padded = torch.cat((pad, tokens) if left else (tokens, pad), 1)
    mask = torch.ones_like(padded)
    real = slice(9, None) if left else slice(0, 20)
    mask[:] = 0
    mask[:, real] = 1
    with torch.no_grad():
        assert (model(padded, mask)[:, real] - model(tokens)).abs().max() < 1e-5


@pytest.mark.parametrize("changes", [{}, {"n_kv_heads": 2}])
def test_wanted_positions_get_what_they_get_among_all(changes):
    model = small(**changes)
    tokens = torch.randint(0, 300, (2, 12))
    mask = torch.ones(2, 12, dtype=torch.bool)
    mask[0, 9:] = False
    positions = torch.tensor([[3, 0, 8], [11, 5, 5]])
    with torch.no_grad():
        every = model.hidden(tokens, mask)
        wanted = model.hidden(tokens, mask, positions_BQ=positions)
    expected = torch.stack([every[row, positions[row]] for row in range(2)])
    assert (wanted - expected).abs().max() < 1e-5


def test_attention_is_bidirectional():
    model = small()
    tokens = torch.randint(0, 300, (1, 10))
    changed = tokens.clone()
    changed[0, -1] = (changed[0, -1] + 1) % 300
    with torch.no_grad():
        assert (model(tokens)[0, 0] - model(changed)[0, 0]).abs().max() > 1e-4


def test_too_long_is_refused():
    with pytest.raises(ValueError, match=r"129 tokens, allowed: 1 to 128"):
        small()(torch.zeros(1, 129, dtype=torch.long))


def test_activation_checkpointing_keeps_the_gradient():
    tokens = torch.randint(0, 300, (2, 12))
    gradients = []
    for checkpointed in (False, True):
        model = small().train()
        model.checkpoint_activations = checkpointed
        model(tokens).square().mean().backward()
        gradients.append(model.model["transformer"]["wte"].weight.grad)
    assert torch.equal(*gradients)


def test_golden_config_survives_a_round_trip(tmp_path):
    checkpoint.save(checkpoint.load(GOLDEN), tmp_path)
    before = json.loads((GOLDEN / "config.json").read_text())
    after = json.loads((tmp_path / "config.json").read_text())
    assert {key: after[key] for key in before} == before
