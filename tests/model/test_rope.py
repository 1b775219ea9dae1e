"""RoPE and YaRN against transformers, position by position; swapped betas are corrected."""

import pytest
import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

from model import rope
from model.config import LLaDAConfig


def config(scale, **changes):
    return LLaDAConfig(
        d_model=512,
        n_heads=4,
        max_sequence_length=int(4096 * scale),
        yarn_scale=scale,
        **changes,
    )


def theirs(scale, **changes):
    """transformers' rotary embedding of the same shape."""
    yarn = {
        "rope_type": "yarn",
        "factor": scale,
        "original_max_position_embeddings": 4096,
        "beta_fast": 32,
        "beta_slow": 1,
    }
    rotary = LlamaConfig(
        hidden_size=512,
        num_attention_heads=4,
        max_position_embeddings=int(4096 * scale),
        rope_parameters={
            "rope_theta": 500000.0,
            **(yarn if scale != 1.0 else {"rope_type": "default"}),
            **changes,
        },
    )
    return LlamaRotaryEmbedding(rotary)


@pytest.mark.parametrize("scale", [1.0, 1.5, 2.0, 4.0])
def test_frequencies_are_those_of_transformers(scale):
    assert torch.equal(rope.frequencies(config(scale)), theirs(scale).inv_freq)


@pytest.mark.parametrize("scale", [1.0, 2.0, 4.0])
def test_every_position_is_that_of_transformers(scale):
    """Cosines and sines of the whole extended context, to the last bits of fp32."""
    context = int(4096 * scale)
    expected = theirs(scale)(torch.zeros(1), torch.arange(context)[None])
    cos, sin = rope.tables(config(scale), context, torch.device("cpu"))
    for ours, reference in zip((cos, sin), expected, strict=True):
        assert ours.shape == (context, 64)
        assert (ours.repeat(1, 2) - reference[0]).abs().max() < 3e-7


@pytest.mark.parametrize("scale", [2.0, 4.0])
def test_rotated_queries_are_those_of_transformers(scale):
    places = torch.tensor([0, 1, 17, 4095, 4096, 4097, int(4096 * scale) - 1])
    cos, sin = theirs(scale)(torch.zeros(1), places[None])
    query, key = torch.randn(2, 1, 4, len(places), 128)
    expected = apply_rotary_pos_emb(query, key, cos, sin)
    tables = rope.tables(config(scale), int(4096 * scale), torch.device("cpu"))
    for states, reference in zip((query, key), expected, strict=True):
        rotated = rope.rotate(states, *(table[places] for table in tables))
        assert (rotated - reference).abs().max() < 5e-6


def test_scale_one_is_plain_rope_bit_for_bit():
    expected = 1.0 / 500000.0 ** (torch.arange(0, 128, 2, dtype=torch.float32) / 128)
    angles = torch.outer(torch.arange(5000, dtype=torch.float32), expected)
    for one in (config(1.0), config(1.0, yarn=True, rope=False, yarn_beta_fast=16)):
        assert torch.equal(rope.frequencies(one), expected)
        cos, sin = rope.tables(one, 5000, torch.device("cpu"))
        assert torch.equal(cos, angles.cos()) and torch.equal(sin, angles.sin())


def test_yarn_that_is_switched_off_is_plain_rope():
    off = config(2.0, yarn=False, rope=True)
    assert torch.equal(rope.frequencies(off), rope.frequencies(config(1.0)))


def test_factor_on_the_attention():
    """`yarn_attn_factor` multiplies YaRN's own factor."""
    cos, _ = rope.tables(config(2.0, yarn_attn_factor=0.5), 1, torch.device("cpu"))
    expected = theirs(2.0).attention_scaling * 0.5
    assert cos[0, 0].item() == pytest.approx(expected) == pytest.approx(0.5 * 1.0693147)


def test_extrapolation_factor_zero_divides_every_frequency():
    every = rope.frequencies(config(2.0, yarn_extrapolation_factor=0))
    assert torch.equal(every, rope.frequencies(config(1.0)) / 2)


def test_swapped_betas_are_corrected_with_a_warning():
    with pytest.warns(UserWarning, match="swapped back"):
        swapped = config(2.0, yarn=True, rope=False, yarn_beta_fast=1.0, yarn_beta_slow=32.0)
    assert torch.equal(rope.frequencies(swapped), rope.frequencies(config(2.0)))


def test_rotation_depends_on_distance_alone():
    cos, sin = rope.tables(config(2.0), 200, torch.device("cpu"))
    query, key = torch.randn(128), torch.randn(128)
    products = [
        rope.rotate(query, cos[place], sin[place])
        @ rope.rotate(key, cos[place + 9], sin[place + 9])
        for place in (0, 50, 190)
    ]
    assert max(products) - min(products) < 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradient_of_the_rotation(dtype):
    """The gradient of transformers' formula in fp32, rounded to the states' dtype."""
    cos, sin = rope.tables(config(2.0), 5, torch.device("cpu"))
    states, slope = torch.randn(2, 1, 3, 5, 128).to(dtype)
    ours, wide = states.clone().requires_grad_(), states.float().requires_grad_()
    rope.rotate(ours, cos, sin).backward(slope)
    both = [table.repeat(1, 2)[None] for table in (cos, sin)]
    apply_rotary_pos_emb(wide, wide, *both)[0].backward(slope.float())
    assert ours.grad.dtype == dtype
    one_bit = torch.finfo(dtype).eps
    torch.testing.assert_close(ours.grad, wide.grad.to(dtype), rtol=one_bit, atol=one_bit)
