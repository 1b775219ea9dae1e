"""DPO and GRPO against hand-computed numbers and plain autograd."""

import math

import pytest
import torch

from model import checkpoint, lora, preference
from tests.model.test_golden import GOLDEN


def policy():
    model = checkpoint.load(GOLDEN, dtype=torch.float32)
    torch.manual_seed(0)
    wrapped = lora.attach(model, rank=4, alpha=8, dropout=0.0, targets=("q_proj", "v_proj"))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    return model, wrapped


def pair():
    generator = torch.Generator().manual_seed(3)
    tokens = torch.randint(2, 300, (2, 3, 14), generator=generator)
    answer = torch.zeros(3, 14, dtype=torch.bool)
    answer[:, 6:] = True
    noise = [preference.draw_noise(answer, 4, generator=generator) for _ in range(2)]
    return tokens, answer, torch.ones_like(answer), noise


def test_dpo_loss_by_hand():
    margin = torch.tensor([0.0, 2.0])
    expected = (math.log(2) + math.log(1 + math.exp(-1.0))) / 2
    assert preference.dpo_loss(margin, beta=0.5).item() == pytest.approx(expected)


def test_closed_form_gradient_is_autograd():
    model, wrapped = policy()
    tokens, answer, attention, noise = pair()

    def elbo(side, number):
        return preference.elbo(model, tokens[side], answer, attention, *noise[side][number])

    def margins():
        return torch.stack([elbo(0, n) - elbo(1, n) for n in range(4)]).mean(0)

    with torch.no_grad(), wrapped.disable_adapter():
        reference = margins()
    loss = preference.dpo_loss(margins() - reference, beta=0.3)
    trained = [p for p in model.parameters() if p.requires_grad]
    expected = torch.autograd.grad(loss, trained)
    margin = preference.backward_dpo(
        lambda n: elbo(0, n),
        lambda n: elbo(1, n),
        wrapped.disable_adapter,
        4,
        beta=0.3,
        scale=1.0,
        backward=torch.Tensor.backward,
    )
    assert preference.dpo_loss(margin, beta=0.3).item() == pytest.approx(loss.item(), rel=1e-5)
    for parameter, gradient in zip(trained, expected, strict=True):
        assert (parameter.grad - gradient).abs().max() <= 1e-5 * max(1, gradient.abs().max())


def test_advantages_by_hand():
    found = preference.advantages(torch.tensor([[1.0, 0.0, 0.0, 1.0], [1.0, 1.0, 1.0, 1.0]]))
    deviation = math.sqrt(4 * 0.25 / 3) + 1e-4
    assert found[0].tolist() == pytest.approx(
        [0.5 / deviation, -0.5 / deviation] * 1 + [-0.5 / deviation, 0.5 / deviation]
    )
    assert found[1].tolist() == [0.0] * 4


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
    plain = preference.advantages(reward, normalise=False)
    assert plain.tolist() == [[2.0, -1.0, -1.0]]
    others = preference.advantages(reward, normalise=False, leave_one_out=True)
    assert others.tolist() == [[3.0, -1.5, -1.5]]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_rewards_that_are_no_numbers_are_refused(bad):
    with pytest.raises(ValueError, match="allowed: finite numbers"):
        preference.advantages(torch.tensor([[1.0, bad]]))
