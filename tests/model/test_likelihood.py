"""Likelihoods, one at a time and many together, against the formula computed by hand."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from model import checkpoint, diffusion, likelihood
from tests.model.test_golden import GOLDEN
from tests.model.test_llada import small

MODEL = checkpoint.load(GOLDEN, dtype=torch.float32)
MASK = 319


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def requests():
    """Shared prompts, no prompt, one-token answers, and lengths that differ."""
    sizes = [(5, 1), (5, 1), (9, 4), (0, 3), (2, 12), (9, 4), (14, 7), (1, 1)]
    draw = seeded(1)
    pairs = [[torch.randint(2, 300, (n,), generator=draw) for n in size] for size in sizes]
    pairs[1][0] = pairs[0][0]
    pairs[5][0] = pairs[2][0]
    return [tuple(pair) for pair in pairs]


def by_hand(prompt, answer, masks, cfg_scale=0.0):
    """The estimate of these masks from logits at every position."""
    total = 0.0
    for mask in masks:
        noisy = torch.cat((prompt, answer.masked_fill(mask, MASK)))[None]
        blind = torch.cat((torch.full_like(prompt, MASK), noisy[0, len(prompt) :]))[None]
        with torch.no_grad():
            seeing, blinded = MODEL(noisy)[0], MODEL(blind)[0]
        logits = (blinded + (cfg_scale + 1) * (seeing - blinded))[len(prompt) :][mask]
        loss = F.cross_entropy(logits, answer[mask], reduction="sum").item()
        total -= loss * len(answer) / int(mask.sum()) / len(masks)
    return total


@pytest.mark.parametrize("draw", ["exact", "reference"])
@pytest.mark.parametrize("cfg_scale", [0.0, 1.5])
def test_estimate_of_the_drawn_masks(draw, cfg_scale):
    for index in (0, 2, 3):
        prompt, answer = requests()[index]
        masks = likelihood.answer_masks(len(answer), 8, 4, draw=draw, generator=seeded(3))
        found = diffusion.log_likelihood(
            MODEL,
            prompt,
            answer,
            samples=8,
            batch_size=4,
            draw=draw,
            cfg_scale=cfg_scale,
            generator=seeded(3),
        )
        assert found == pytest.approx(by_hand(prompt, answer, masks, cfg_scale), rel=1e-4)


@pytest.mark.parametrize("draw", ["exact", "reference"])
@pytest.mark.parametrize("cfg_scale", [0.0, 0.5])
@pytest.mark.parametrize("tokens_per_pass", [1, 50, 100_000])
def test_company_does_not_change_a_value(draw, cfg_scale, tokens_per_pass):
    options = dict(samples=16, batch_size=8, draw=draw, cfg_scale=cfg_scale)
    together = diffusion.log_likelihoods(
        MODEL, requests(), tokens_per_pass=tokens_per_pass, seed=4, **options
    )
    for index, (prompt, answer) in enumerate(requests()):
        alone = diffusion.log_likelihood(
            MODEL, prompt, answer, generator=likelihood.request_generator(4, index), **options
        )
        assert together[index] == pytest.approx(alone, rel=1e-4)


def test_requests_beyond_a_group_keep_their_order(monkeypatch):
    monkeypatch.setattr(likelihood, "GROUP", 3)
    done = []
    split = diffusion.log_likelihoods(MODEL, requests(), samples=4, progress=done.append)
    monkeypatch.undo()
    assert split == pytest.approx(diffusion.log_likelihoods(MODEL, requests(), samples=4), rel=1e-4)
    assert done == [3, 3, 2]


def test_exact_draws_are_unbiased():
    """Over all seven masks of three tokens: each count one third, each mask of a count alike."""
    prompt, answer = requests()[3][1], requests()[2][1][:3]
    expected = 0.0
    for mask in itertools.product((False, True), repeat=3):
        if any(mask):
            count = sum(mask)
            ways = (3, 3, 1)[count - 1]
            value = by_hand(prompt, answer, [torch.tensor(mask)])
            expected += value / 3 / ways
    found = diffusion.log_likelihood(
        MODEL, prompt, answer, samples=60_000, batch_size=600, generator=seeded()
    )
    assert found == pytest.approx(expected, rel=2e-3)


@pytest.mark.parametrize("draw", ["exact", "reference"])
def test_masks_have_their_counts_and_no_favourite_tokens(draw):
    masks = likelihood.answer_masks(5, 40_000, 8, draw=draw, generator=seeded())
    counts = masks.sum(1)
    assert counts.min() == 1 and counts.max() == 5
    for count in range(1, 5):
        share = masks[counts == count].float().mean(0)
        assert (share - count / 5).abs().max() < 0.02
    if draw == "exact":
        assert (torch.bincount(counts)[1:] / 40_000 - 0.2).abs().max() < 0.01


def test_equal_rows_are_computed_once():
    """Four one-token choices of one question, 32 samples each: one row, one pass."""
    model, prompt = small(), torch.arange(2, 12)
    seen = []
    hook = model.get_input_embeddings().register_forward_hook(
        lambda module, given, made: seen.append(given[0].shape)
    )
    choices = [(prompt, torch.tensor([token])) for token in (20, 21, 22, 23)]
    found = diffusion.log_likelihoods(model, choices, samples=32)
    hook.remove()
    assert seen == [(1, 11)]
    with torch.no_grad():
        logits = model(torch.cat((prompt, torch.tensor([MASK])))[None])[0, -1]
    expected = logits.log_softmax(-1)[20:24].tolist()
    assert found == pytest.approx(expected, rel=1e-4)


def test_training_follows_a_likelihood():
    """Tensors made in inference mode, such as rotary tables, must not reach autograd."""
    model, text = small(), torch.randint(2, 300, (2, 8), generator=seeded())
    diffusion.log_likelihood(model, text[0], text[1], samples=4, batch_size=4)
    diffusion.pretraining_loss(model.train(), text, torch.ones_like(text) > 0).backward()
    assert model.head_weight.grad.abs().sum() > 0


def test_streams_of_noise_differ():
    streams = [
        tuple(torch.rand(4, generator=likelihood.request_generator(seed, index)).tolist())
        for seed in range(3)
        for index in range(3)
    ]
    assert len(set(streams)) == 9


def test_bad_requests_are_refused():
    prompt, answer = requests()[2]
    with pytest.raises(ValueError, match="answer is empty"):
        diffusion.log_likelihoods(MODEL, [(prompt, answer), (prompt, answer[:0])])
    with pytest.raises(ValueError, match="samples=5"):
        diffusion.log_likelihoods(MODEL, [(prompt, answer)], samples=5, batch_size=2)
    with pytest.raises(ValueError, match="tokens, allowed: 1 to"):
        diffusion.log_likelihoods(MODEL, [(prompt.repeat(1000), answer)], samples=1)
    assert diffusion.log_likelihoods(MODEL, []) == []
