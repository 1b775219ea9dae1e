"""Linear layers: how few rows are multiplied on a CPU changes the speed and not the result."""

import pytest
import torch
import torch.nn.functional as F

from model.projection import FEW, Projection, project


@pytest.mark.parametrize("shape", [(1,), (3, 5), (1, FEW), (2, FEW), (2, 3, 4)])
@torch.inference_mode()
def test_equals_the_plain_product(shape):
    states, weight = torch.randn(*shape, 48), torch.randn(40, 48)
    found = project(states, weight)
    assert found.shape == (*shape, 40)
    assert (found - F.linear(states, weight)).abs().max() < 1e-4


@torch.inference_mode()
def test_states_may_lie_transposed():
    """One layer's result is the next one's input."""
    states, layer = torch.randn(48, 6).T.unflatten(0, (2, 3)), Projection(48, 48)
    expected = layer(layer(states.contiguous()))
    assert (layer(layer(states)) - expected).abs().max() < 1e-5


def test_outside_inference_mode_it_is_the_plain_product_bit_for_bit():
    """A step and the pass without gradient that it is compared with use one product."""
    states, layer = torch.randn(2, 3, 512), Projection(512, 512)
    with torch.no_grad():
        silent = layer(states)
    assert torch.equal(layer(states), silent)
    assert torch.equal(silent, F.linear(states, layer.weight)) and silent.is_contiguous()
