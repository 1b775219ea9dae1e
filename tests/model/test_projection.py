"""Linear layers: the order of multiplication on a CPU changes the speed, not the result."""

import pytest
import torch
import torch.nn.functional as F

from model.projection import FEW, Projection, project


@pytest.mark.parametrize("shape", [(1,), (3, 5), (1, FEW), (2, FEW), (2, 3, 4)])
@torch.inference_mode()
def test_equals_the_plain_product(shape):
    states, weight = torch.randn(*shape, 48), torch.randn(40, 48)
    product = project(states, weight)
    assert product.shape == (*shape, 40)
    assert (product - F.linear(states, weight)).abs().max() < 1e-4


@torch.inference_mode()
def test_states_may_lie_transposed():
    """The transposed result of one layer is the input of the next."""
    states, layer = torch.randn(48, 6).T.unflatten(0, (2, 3)), Projection(48, 48)
    expected = layer(layer(states.contiguous()))
    assert (layer(layer(states)) - expected).abs().max() < 1e-5


def test_outside_inference_mode_it_is_the_plain_product_bit_for_bit():
    """A training step and a no-grad pass compared with it must use the same product."""
    states, layer = torch.randn(2, 3, 512), Projection(512, 512)
    with torch.no_grad():
        silent = layer(states)
    assert torch.equal(layer(states), silent)
    assert torch.equal(silent, F.linear(states, layer.weight)) and silent.is_contiguous()
