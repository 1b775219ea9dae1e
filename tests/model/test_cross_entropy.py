"""The cross entropy without logits against the one with them."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from model import diffusion
from model.cross_entropy import cross_entropy
from tests.model.factors import competing
from tests.model.test_llada import small


class LargestTensor(TorchDispatchMode):
    """Remembers the elements of the largest tensor that an operation made (views apart)."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor) and made._base is None and not function.is_view:
            self.elements = max(self.elements, made.numel())
        return made


def states(count, width, vocabulary, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(count, width, dtype=dtype, generator=generator, requires_grad=True)
    weight = torch.randn(vocabulary, width, dtype=dtype, generator=generator, requires_grad=True)
    return hidden, weight, torch.randint(0, vocabulary, (count,), generator=generator)


@pytest.mark.parametrize("z_loss", [0.0, 0.1])
@pytest.mark.parametrize("slice_bytes", [1, 7 * 8 * 3, 2**20])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_gradcheck(z_loss, slice_bytes, temperature):
    hidden, weight, targets = states(7, 5, 11)
    options = dict(z_loss=z_loss, temperature=temperature, slice_bytes=slice_bytes)

    def loss(hidden, weight):
        return cross_entropy(hidden, weight, targets, **options)

    assert torch.autograd.gradcheck(loss, (hidden, weight))
    assert torch.autograd.gradcheck(lambda hidden: loss(hidden, weight.detach()), (hidden,))
    assert torch.autograd.gradcheck(lambda weight: loss(hidden.detach(), weight), (weight,))


@settings(max_examples=40, deadline=None)
@given(
    count=st.integers(0, 9),
    vocabulary=st.integers(1, 40),
    slice_bytes=st.integers(1, 2000),
    scale=st.sampled_from([0.1, 1.0, 30.0]),
    seed=st.integers(0, 99),
)
def test_equals_plain_cross_entropy(count, vocabulary, slice_bytes, scale, seed):
    """Losses and both gradients, under a coefficient of its own at each position."""
    found = []
    for way in ("plain", "ours"):
        hidden, weight, targets = states(count, 6, vocabulary, torch.float32, seed)
        scaled = hidden * scale
        if way == "plain":
            loss = F.cross_entropy(F.linear(scaled, weight), targets, reduction="none")
        else:
            loss = cross_entropy(scaled, weight, targets, slice_bytes=slice_bytes)
        (loss * torch.arange(1, count + 1)).sum().backward()
        found.append((loss.detach(), hidden.grad, weight.grad))
    for plain, ours in zip(*found, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-5 * scale * (count + 1))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_temperature_divides_the_logits(temperature):
    hidden, weight, targets = states(20, 6, 30, torch.float32)
    found = cross_entropy(hidden, weight, targets, temperature=temperature, slice_bytes=20 * 4 * 7)
    logits = F.linear(hidden, weight) / temperature
    expected = F.cross_entropy(logits, targets, reduction="none")
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    if temperature == 1.0:
        plain = cross_entropy(hidden, weight, targets, slice_bytes=20 * 4 * 7)
        assert torch.equal(found, plain)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_log_probabilities_of_competing_tokens_are_not_rounded(dtype):
    """In bf16, by autocast or by the weights: what fp32 gives of the same bf16 factors."""
    hidden, weight = competing(dtype)
    targets = torch.arange(500) % 2
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.float32):
        found = cross_entropy(hidden, weight, targets)
    logits = hidden.bfloat16().double() @ weight.bfloat16().double().T
    expected = F.cross_entropy(logits, targets, reduction="none")
    rounded = F.cross_entropy(logits.bfloat16().double(), targets, reduction="none")
    assert (rounded - expected).std() > 1e-3, "logits that rounding does not move show nothing"
    assert (found - expected).abs().max() < 1e-4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bf16_products_and_a_wide_softmax(dtype):
    """As autocast does with fp32 weights, and as bf16 weights do without it."""
    hidden, weight, targets = states(20, 32, 200, torch.float32)
    hidden, weight = hidden.detach().to(dtype), weight.detach().to(dtype).requires_grad_()
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.float32)
    with autocast:
        ours = cross_entropy(hidden, weight, targets, slice_bytes=20 * 4 * 64)
    logits = F.linear(hidden.bfloat16().float(), weight.bfloat16().float())
    plain = F.cross_entropy(logits, targets, reduction="none")
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-5)
    (gradient,) = torch.autograd.grad(ours.sum(), weight)
    (expected,) = torch.autograd.grad(plain.sum(), weight)
    assert gradient.dtype == dtype
    torch.testing.assert_close(gradient, expected, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("frozen", [True, False])
def test_never_holds_the_logits(frozen):
    hidden, weight, targets = states(50, 8, 4000, torch.float32)
    weight.requires_grad_(not frozen)
    slice_bytes = 50 * 100 * 4
    with LargestTensor() as seen:
        cross_entropy(hidden, weight, targets, slice_bytes=slice_bytes).sum().backward()
    assert seen.elements == (50 * 100 if frozen else weight.numel())
    assert (weight.grad is None) == frozen


@pytest.mark.parametrize("changes", [{}, {"weight_tying": True}])
@pytest.mark.parametrize("frozen", [True, False])
def test_gradients_through_the_model(changes, frozen):
    """Own and tied heads, trained and frozen: every gradient is that of the logits' loss."""
    tokens = torch.randint(0, 300, (2, 12), generator=torch.Generator().manual_seed(1))
    masked = torch.rand(2, 12, generator=torch.Generator().manual_seed(2)) < 0.5
    noisy = tokens.masked_fill(masked, 319)
    found = []
    for way in ("plain", "ours"):
        model = small(**changes).train()
        model.head_weight.requires_grad_(not frozen)
        if way == "plain":
            logits = model(noisy)[masked]
            loss = F.cross_entropy(logits, tokens[masked], reduction="sum")
        else:
            loss = diffusion.masked_cross_entropy(model, noisy, tokens, masked).sum()
        loss.backward()
        found.append({name: p.grad for name, p in model.named_parameters() if p.requires_grad})
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-4, atol=1e-5)
