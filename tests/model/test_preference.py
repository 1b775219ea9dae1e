"""DPO and GRPO against hand-computed numbers and plain autograd."""

import math

import pytest
import torch

from model import checkpoint, estimators, lora, preference
from tests.model.test_golden import GOLDEN


def policy():
    model = checkpoint.load(GOLDEN, dtype=torch.float32)
    torch.manual_seed(0)
    wrapped = lora.attach(model, rank=4, alpha=8, dropout=0.0, targets=("q_proj", "v_proj"))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    return model, wrapped


def batch():
    generator = torch.Generator().manual_seed(3)
    tokens = torch.randint(2, 300, (3, 14), generator=generator)
    answer = torch.zeros(3, 14, dtype=torch.bool)
    answer[:, 6:] = True
    views = estimators.monte_carlo(answer, draws=4, generator=generator)
    return tokens, torch.ones_like(answer), views


def test_dpo_loss_by_hand():
    margin = torch.tensor([0.0, 2.0])
    expected = [math.log(2), math.log(1 + math.exp(-1.0))]
    assert preference.dpo_loss(margin, beta=0.5).tolist() == pytest.approx(expected)


def test_label_smoothing_by_hand():
    right, wrong = math.log(1 + math.exp(-1.0)), math.log(1 + math.exp(1.0))
    found = preference.dpo_loss(torch.tensor([2.0]), beta=0.5, label_smoothing=0.1)
    assert found.item() == pytest.approx(0.9 * right + 0.1 * wrong)


def test_ipo_by_hand():
    found = preference.dpo_loss(torch.tensor([0.0, 7.0]), beta=0.1, kind="ipo")
    assert found.tolist() == pytest.approx([25.0, 4.0])


def test_gradient_a_draw_at_a_time_is_plain_autograd():
    """In fp64: fp32 products of one draw and of all round differently on some processors."""
    model, wrapped = policy()
    model.double()
    tokens, seen, views = batch()
    trained = [p for p in model.parameters() if p.requires_grad]
    with torch.no_grad(), wrapped.disable_adapter():
        reference = preference.elbo(model, tokens, seen, views)

    def gradient(elbo):
        margin = elbo - reference
        loss = preference.dpo_loss(margin[0] - margin[1:], beta=0.3).mean()
        return loss.item(), torch.autograd.grad(loss, trained)

    plain, expected = gradient(estimators.log_probabilities(model, tokens, seen, views).sum(1))
    value, found = gradient(preference.elbo(model, tokens, seen, views))
    assert value == pytest.approx(plain, rel=1e-5)
    for one, other in zip(found, expected, strict=True):
        assert other.any()
        assert (one - other).abs().max() <= 1e-5 * max(1, other.abs().max())


def test_memory_does_not_grow_with_the_draws():
    """What autograd keeps for the backward pass, counted in bytes."""
    model, _ = policy()
    tokens, seen, _ = batch()
    answer = seen.clone()
    answer[:, :6] = False

    def kept(score, draws):
        views = estimators.monte_carlo(
            answer, draws=draws, generator=torch.Generator().manual_seed(0)
        )
        sizes = []
        hooks = torch.autograd.graph.saved_tensors_hooks(
            lambda tensor: (sizes.append(tensor.nbytes), tensor)[1], lambda tensor: tensor
        )
        with hooks:
            score(model, tokens, seen, views)
        return sum(sizes)

    growth = kept(preference.elbo, 8) - kept(preference.elbo, 2)
    plain = kept(estimators.log_probabilities, 8) - kept(estimators.log_probabilities, 2)
    assert growth < plain / 1000


def test_advantages_by_hand():
    found = preference.advantages(torch.tensor([[1.0, 0.0, 0.0, 1.0], [1.0, 1.0, 1.0, 1.0]]))
    deviation = math.sqrt(4 * 0.25 / 3) + 1e-4
    assert found[0].tolist() == pytest.approx(
        [0.5 / deviation, -0.5 / deviation] * 1 + [-0.5 / deviation, 0.5 / deviation]
    )
    assert found[1].tolist() == [0.0] * 4


@pytest.mark.parametrize("group", range(2, 17))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_group_without_spread_has_no_advantage(group, dtype):
    """Exactly none: what is left of rounding would be divided by 1e-4 and trained on."""
    values = torch.tensor([[0.1], [0.7], [1.1], [-0.3], [1e-3], [1e6 / 3]], dtype=dtype)
    for options in ({}, {"normalize": False}, {"leave_one_out": True}):
        assert (preference.advantages(values.repeat(1, group), **options) == 0).all()


@pytest.mark.parametrize("group", range(2, 17))
def test_sums_of_rewards_in_another_order_have_no_spread(group):
    """0.1 + 0.2 + 0.3 by rounding is 0.6 or a little more; so is a sum that cancels out."""
    sums = [(0.1 + 0.2) + 0.3, 0.1 + (0.2 + 0.3)]
    assert sums[0] != sums[1]
    mixed = torch.tensor([[sums[n % 2] for n in range(group)]], dtype=torch.float64)
    assert (preference.advantages(mixed) == 0).all()
    nothing = [0.1 + 0.2 - 0.3, 0.0]
    assert nothing[0] != 0
    mixed = torch.tensor([[nothing[n % 2] for n in range(group)]], dtype=torch.float64)
    assert (preference.advantages(mixed, scale=0.6) == 0).all()


def test_an_answer_at_its_groups_mean_has_no_advantage():
    found = preference.advantages(torch.tensor([[0.1, 0.2, 0.3]], dtype=torch.float64))
    assert found[0, 1] == 0 and found[0, 0] < 0 < found[0, 2]


def test_small_spreads_count():
    found = preference.advantages(torch.tensor([[0.5, 0.5001]], dtype=torch.float64))
    assert found[0, 0] < 0 < found[0, 1]


@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("size", [1, 2, 3, 6])
def test_micro_batches_add_up_to_the_loss_of_the_whole(level, size):
    """Answers of one to six tokens: each token, or answer, counts alike wherever it stands."""
    generator = torch.Generator().manual_seed(0)
    new, old, reference = -torch.rand(3, 6, 6, generator=generator)
    weight = (torch.arange(6) <= torch.arange(6)[:, None]).float()
    advantage = torch.randn(6, generator=generator)
    options = dict(clip_low=0.2, clip_high=0.2, kl=0.1, level=level)
    whole, figures = preference.grpo_loss(new, old, reference, advantage, weight, **options)
    count = 6 if level == "sequence" else int(weight.sum())
    parts = [
        preference.grpo_loss(
            *(tensor[first : first + size] for tensor in (new, old, reference)),
            advantage[first : first + size],
            weight[first : first + size],
            count=count,
            **options,
        )
        for first in range(0, 6, size)
    ]
    assert sum(loss for loss, _ in parts).item() == pytest.approx(whole.item(), rel=1e-6)
    for name, value in figures.items():
        assert sum(part[name] for _, part in parts) == pytest.approx(value, rel=1e-6)


def test_grpo_loss_by_hand():
    new = torch.tensor([[math.log(0.5), math.log(0.3)]])
    old = torch.tensor([[math.log(0.25), math.log(0.3)]])
    reference = torch.tensor([[math.log(0.25), math.log(0.3)]])
    loss, figures = preference.grpo_loss(
        new,
        old,
        reference,
        torch.tensor([1.0]),
        torch.ones(1, 2, dtype=torch.bool),
        clip_low=0.2,
        clip_high=0.3,
        kl=0.1,
    )
    k3 = (0.5 - math.log(0.5) - 1) / 2  # ratio 2 is clipped to 1.3; the other token's ratio is 1
    assert figures == {"kl": pytest.approx(k3, rel=1e-5), "clipped": 0.5}
    assert loss.item() == pytest.approx(-(1.3 + 1.0) / 2 + 0.1 * k3, rel=1e-5)


def test_grpo_loss_of_sequences_by_hand():
    """Two answers of two and one tokens: the ratio is that of their mean log-probabilities."""
    new = torch.tensor([[-1.0, -2.0], [-1.0, -9.0]])
    old = torch.tensor([[-1.2, -2.2], [-0.5, -7.0]])
    scored = torch.tensor([[True, True], [True, False]])
    loss, figures = preference.grpo_loss(
        new,
        old,
        old,
        torch.tensor([1.0, -1.0]),
        scored,
        clip_low=0.2,
        clip_high=0.2,
        kl=0.0,
        level="sequence",
    )
    # exp(0.2) is clipped to 1.2; exp(-0.5) is below 0.8, where a negative advantage is cut
    assert loss.item() == pytest.approx(-(1.2 - 0.8) / 2, rel=1e-5)
    assert figures["clipped"] == 1.0


def test_advantages_without_deviation_and_against_the_others():
    reward = torch.tensor([[3.0, 0.0, 0.0]])
    plain = preference.advantages(reward, normalize=False)
    assert plain.tolist() == [[2.0, -1.0, -1.0]]
    others = preference.advantages(reward, normalize=False, leave_one_out=True)
    assert others.tolist() == [[3.0, -1.5, -1.5]]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_rewards_that_are_no_numbers_are_refused(bad):
    with pytest.raises(ValueError, match="allowed: finite numbers"):
        preference.advantages(torch.tensor([[1.0, bad]]))
