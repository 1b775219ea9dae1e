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


def test_policy_equals_reference_before_the_first_update():
    model = checkpoint.load(GOLDEN, dtype=torch.float32)
    wrapped = lora.attach(model, rank=4, alpha=8, dropout=0.1, targets=("q_proj",))
    model.eval()
    tokens, answer, attention, _ = pair()
    masks = preference.complementary_masks(answer, generator=torch.Generator().manual_seed(0))
    score = (model, tokens[0], answer, attention, masks)
    with torch.no_grad():
        new = preference.token_log_probabilities(*score)
        with wrapped.disable_adapter():
            reference = preference.token_log_probabilities(*score)
    assert torch.equal(new, reference)


def test_complementary_masks_score_every_token_once():
    _, answer, _, _ = pair()
    first, second = preference.complementary_masks(
        answer, generator=torch.Generator().manual_seed(0)
    )
    assert torch.equal(first | second, answer) and not (first & second).any()


def test_one_pass_hides_the_answer_and_some_of_the_prompt():
    _, answer, _, _ = pair()
    (mask,) = preference.one_pass_masks(
        answer, ~answer, prompt_mask=0.5, generator=torch.Generator().manual_seed(0)
    )
    assert mask[answer].all() and 0 < mask[~answer].sum() < (~answer).sum()


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
    loss, divergence = preference.grpo_loss(
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
    assert divergence.item() == pytest.approx(k3, rel=1e-5)
    assert loss.item() == pytest.approx(-(1.3 + 1.0) / 2 + 0.1 * k3, rel=1e-5)
