"""Order and noise are functions of the step, uniform, and never shared between draws."""

import torch
from hypothesis import given
from hypothesis import strategies as some

from model import draws


@given(some.integers(1, 60), some.integers(1, 40), some.integers(0, 2**63 - 1))
def test_every_epoch_holds_every_example_once(count, batch_size, seed):
    order = draws.Order(count, batch_size, seed)
    steps = 3 * count // batch_size + 1
    seen = [number for step in range(steps) for number in order.batch(step)]
    for epoch in range(len(seen) // count):
        assert sorted(seen[epoch * count : (epoch + 1) * count]) == list(range(count))


def test_any_step_can_be_asked_first():
    forward = draws.Order(50, 16, 3)
    batches = [forward.batch(step) for step in range(20)]
    backward = draws.Order(50, 16, 3)
    assert [backward.batch(step) for step in reversed(range(20))] == batches[::-1]
    assert draws.Order(50, 16, 4).batch(0) != batches[0]


@given(some.integers(0, 2**63 - 1), some.integers(0, 2**31), some.integers(1, 10**6))
def test_keys_differ_between_numbers_and_purposes(seed, number, gap):
    keys = {draws.key("noise", seed, number), draws.key("noise", seed, number + gap)}
    keys.add(draws.key("dropout", seed, number))
    assert len(keys) == 3 and all(0 <= key < 2**32 for key in keys)


def test_first_draws_of_successive_keys_are_independent_and_uniform():
    """The first draw of each micro-batch sets its timesteps: it must be uniform over the steps."""
    generator, first = torch.Generator(), []
    for number in range(20000):
        generator.manual_seed(draws.key("noise", 0, number))
        first.append(torch.rand((), generator=generator).item())
    u = torch.tensor(first, dtype=torch.float64)
    ordered = u.sort().values
    distance = (ordered - torch.linspace(0, 1, len(u), dtype=torch.float64)).abs().max()
    assert distance < 1.95 / len(u) ** 0.5  # Kolmogorov-Smirnov at 0.1%
    for lag in (1, 2, 3, 16):
        correlation = torch.corrcoef(torch.stack((u[:-lag], u[lag:])))[0, 1]
        assert correlation.abs() < 3.3 / len(u) ** 0.5
