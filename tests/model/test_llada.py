"""The transformer: masks that mask, and caches and checkpointing that change nothing."""

import pytest
import torch

from model.cache import KeyValueCache
from model.config import LLaDAConfig
from model.llada import LLaDA

SHAPE = dict(d_model=64, n_heads=4, n_layers=3, mlp_hidden_size=96, vocab_size=320)
IDS = dict(mask_token_id=319, eos_token_id=1, pad_token_id=1, max_sequence_length=128)


def small(**changes):
    torch.manual_seed(0)
    return LLaDA(LLaDAConfig(**{**SHAPE, **IDS, **changes})).eval()


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
        again = model.hidden(tokens[:, 16:end], mask, cache=cache, start=torch.tensor(16))
    assert (model.head(block) - model.head(full[:, 16:end])).abs().max() < 1e-5
    assert torch.equal(again, block)


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
def test_some_positions_get_what_they_get_among_all(changes):
    model = small(**changes)
    tokens = torch.randint(0, 300, (2, 12))
    mask = torch.ones(2, 12, dtype=torch.bool)
    mask[0, 9:] = False
    positions = torch.tensor([[3, 0, 8], [11, 5, 5]])
    with torch.no_grad():
        every = model.hidden(tokens, mask)
        some = model.hidden(tokens, mask, positions_BQ=positions)
    expected = torch.stack([every[row, positions[row]] for row in range(2)])
    assert (some - expected).abs().max() < 1e-5


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
