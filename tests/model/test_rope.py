"""RoPE and YaRN against transformers' own frequencies; the swapped betas found in the wild."""

import pytest
import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

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


@pytest.mark.parametrize("scale", [1.5, 2.0, 4.0])
def test_yarn_is_transformers_yarn(scale):
    theirs = LlamaConfig(
        hidden_size=512,
        num_attention_heads=4,
        max_position_embeddings=int(4096 * scale),
        rope_parameters={
            "rope_type": "yarn",
            "rope_theta": 500000.0,
            "factor": scale,
            "original_max_position_embeddings": 4096,
            "beta_fast": 32,
            "beta_slow": 1,
        },
    )
    expected, factor = ROPE_INIT_FUNCTIONS["yarn"](theirs, torch.device("cpu"))
    torch.testing.assert_close(rope.frequencies(config(scale)), expected, rtol=1e-6, atol=0)
    cos, _ = rope.tables(config(scale), 1, torch.device("cpu"))
    assert cos[0, 0].item() == pytest.approx(factor)


def test_scale_one_is_plain_rope_bit_for_bit():
    expected = 1.0 / 500000.0 ** (torch.arange(0, 128, 2, dtype=torch.float32) / 128)
    assert torch.equal(rope.frequencies(config(1.0)), expected)


def test_swapped_betas_are_corrected_with_a_warning():
    with pytest.warns(UserWarning, match="swapped back"):
        swapped = config(2.0, yarn_beta_fast=1.0, yarn_beta_slow=32.0)
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
