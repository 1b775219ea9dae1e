"""Noise, losses and likelihood against what they are by hand."""

import math

import pytest
import torch

from model import checkpoint, diffusion
from tests.model.test_golden import GOLDEN

MODEL = checkpoint.load(GOLDEN, dtype=torch.float32)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_mask_ratio_is_uniform_and_stratified():
    ratios = torch.stack([diffusion.sample_mask_ratio(8, generator=seeded(n)) for n in range(2000)])
    assert ratios.min() >= diffusion.EPS and ratios.max() <= 1
    assert ratios[:, 0].mean().item() == pytest.approx(0.5, abs=0.02)
    ordered = ratios.sort(1).values
    assert ((ordered[:, 1:] - ordered[:, :-1]) - 0.999 / 8).abs().max() < 1e-5


def test_noise_masks_only_what_may_be_masked():
    tokens = torch.arange(2, 42).view(2, 20)
    maskable = torch.zeros_like(tokens, dtype=torch.bool)
    maskable[:, 10:] = True
    noisy, masked = diffusion.noise(
        tokens, torch.tensor([1.0, 0.5]), maskable, 319, generator=seeded()
    )
    assert torch.equal(noisy[:, :10], tokens[:, :10])
    assert masked[0, 10:].all() and 0 < masked[1].sum() < 10
    assert torch.equal(noisy == 319, masked)


def test_losses_by_hand():
    """The same draws, the head at every position, and the sums of the equations written out."""
    tokens = torch.randint(2, 300, (3, 12), generator=seeded(1))
    answer = torch.zeros_like(tokens, dtype=torch.bool)
    for row, start in enumerate((4, 6, 9)):
        answer[row, start:] = True
    for maskable, loss in (
        (torch.ones_like(answer), diffusion.pretraining_loss),
        (answer, diffusion.sft_loss),
    ):
        generator = seeded(7)
        ratio = diffusion.sample_mask_ratio(3, generator=generator)
        noisy, masked = diffusion.noise(tokens, ratio, maskable, 319, generator=generator)
        with torch.no_grad():
            logp = MODEL(noisy).log_softmax(-1).gather(-1, tokens[..., None])[..., 0]
            cost = torch.where(masked, -logp / ratio[:, None], 0.0)
            by_hand = cost.sum() / 36
            if maskable is answer:
                by_hand = sum(cost[row].sum() / answer[row].sum() for row in range(3)) / 3
            found = loss(MODEL, tokens, maskable, generator=seeded(7))
        assert found.item() == pytest.approx(by_hand.item(), rel=1e-5)


def test_exact_counts_have_a_uniform_marginal():
    counts = torch.cat([diffusion.mask_counts(20, 8, generator=seeded(n)) for n in range(4000)])
    share = torch.bincount(counts, minlength=21)[1:] / len(counts)
    assert (share - 0.05).abs().max() < 0.004


def test_reference_counts_are_uneven_as_published():
    draws = [
        diffusion.mask_counts(20, 8, draw="reference", generator=seeded(n)) for n in range(4000)
    ]
    share = torch.bincount(torch.cat(draws), minlength=21)[1:] / (8 * 4000)
    assert share.min() < 0.03 and share.max() > 0.07


def test_likelihood_of_one_token_is_its_log_probability():
    prompt, answer = torch.tensor([5, 6, 7, 8]), torch.tensor([9])
    with torch.no_grad():
        logits = MODEL(torch.tensor([[5, 6, 7, 8, 319]]))[0, -1]
    expected = logits.log_softmax(-1)[9].item()
    found = diffusion.log_likelihood(MODEL, prompt, answer, samples=4, batch_size=2)
    assert found == pytest.approx(expected, rel=1e-5)


def test_likelihood_is_the_mean_over_orders():
    """Two tokens: half the weight on both masked, half on each masked alone."""
    prompt, answer = torch.tensor([5, 6, 7]), torch.tensor([9, 10])

    def logp(tokens, position, token):
        with torch.no_grad():
            return MODEL(torch.tensor([tokens]))[0, position].log_softmax(-1)[token].item()

    both = logp([5, 6, 7, 319, 319], 3, 9) + logp([5, 6, 7, 319, 319], 4, 10)
    alone = logp([5, 6, 7, 319, 10], 3, 9) + logp([5, 6, 7, 9, 319], 4, 10)
    expected = 0.5 * both + 0.5 * alone  # k=2 has weight 1; k=1 has weight 2, one token each
    found = diffusion.log_likelihood(
        MODEL, prompt, answer, samples=4000, batch_size=400, generator=seeded()
    )
    assert found == pytest.approx(expected, abs=0.1)
    assert math.isfinite(found)


def test_guided_likelihood_differs_and_bad_counts_are_refused():
    prompt, answer = torch.tensor([5, 6, 7]), torch.tensor([9, 10, 11])
    options = dict(samples=8, batch_size=4)
    plain = diffusion.log_likelihood(MODEL, prompt, answer, generator=seeded(), **options)
    guided = diffusion.log_likelihood(
        MODEL, prompt, answer, cfg_scale=1.0, generator=seeded(), **options
    )
    assert plain != guided
    with pytest.raises(ValueError, match="samples=5"):
        diffusion.log_likelihood(MODEL, prompt, answer, samples=5, batch_size=2)
    with pytest.raises(ValueError, match="answer is empty"):
        diffusion.log_likelihood(MODEL, prompt, answer[:0])
