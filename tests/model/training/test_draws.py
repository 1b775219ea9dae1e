"""Order and noise are functions of the step, uniform, and never shared between draws."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as some

from model.training import draws


@settings(deadline=None)
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


@settings(deadline=None)
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


def places(*numbers, step=3, seed=0, batch=8):
    return draws.Draw(
        purpose="noise", seed=seed, step=step, examples=range(100, 100 + batch), places=numbers
    )


@settings(deadline=None)
@given(some.integers(0, 2**63 - 1), some.integers(0, 1000), some.integers(1, 300))
def test_a_rows_noise_depends_on_its_place_alone(seed, step, length):
    """Not on the rows beside it, nor on how far they are padded."""
    whole = places(*range(8), seed=seed, step=step)
    alone = [places(number, seed=seed, step=step) for number in range(8)]
    longer = torch.cat([row.uniform(length + 17) for row in alone])
    assert torch.equal(whole.uniform(length), longer[:, :length])
    assert torch.equal(whole.timesteps(), torch.cat([row.timesteps() for row in alone]))
    assert torch.equal(whole.batch(3), alone[5].batch(3))
    assert whole.micro_batch == [row.micro_batch[0] for row in alone]


def test_timesteps_are_stratified_over_the_step_and_uniform_over_steps():
    t = torch.stack([places(*range(8), step=step).timesteps() for step in range(2000)])
    assert (t.sort(1).values.diff(dim=1) - 1 / 8).abs().max() < 1e-5
    share = torch.histc(t[:, 3], 10, 0, 1) / len(t)
    assert (share - 0.1).abs().max() < 0.03


def test_noise_differs_by_place_step_seed_purpose_and_number():
    one = places(0)
    rows = [
        one.uniform(4),
        one.uniform(4, 1),
        places(1).uniform(4),
        places(0, step=4).uniform(4),
        places(0, seed=1).uniform(4),
        one.of("plain").uniform(4),
        *one.twice().uniform(4)[1:, None],
    ]
    assert len({tuple(row[0].tolist()) for row in rows}) == len(rows)
    u = torch.cat([places(*range(8), step=step).uniform(40).flatten() for step in range(200)])
    assert u.min() >= 0 and u.max() < 1 and abs(u.mean().item() - 0.5) < 0.005
