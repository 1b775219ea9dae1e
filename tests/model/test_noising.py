"""The noise of training and its options: distributions, weights, and nothing changed when off."""

import itertools

import pytest
import torch

from model import diffusion
from model.noising import EPS, apply_curriculum, corrupt, loss_by_ratio
from model.options import Curriculum, LossOptions
from tests.model.test_llada import small

MASK = 319
CURRICULUM = Curriculum(original_context=8, strength=2.0, until=0.5)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def tokens(rows=3, length=16):
    return torch.randint(2, 300, (rows, length), generator=seeded(1))


def test_options_off_are_the_plain_loss_bit_for_bit():
    model, text = small(), tokens()
    answer = torch.arange(16) >= torch.tensor([[4], [6], [9]])
    real = torch.ones_like(answer)
    for maskable in (real, answer):
        draw = seeded(7)
        ratio = diffusion.sample_mask_ratio(3, generator=draw)
        noisy, masked = diffusion.noise(text, ratio, maskable, MASK, generator=draw)
        seen = real if maskable is real else None
        loss = diffusion.masked_cross_entropy(model, noisy, text, masked, seen) / ratio[:, None]
        if maskable is real:
            plain = loss.sum() / real.sum()
            ways = [
                dict(),
                dict(options=LossOptions()),
                dict(options=LossOptions(curriculum=CURRICULUM), progress=0.5),
            ]
            found = [
                diffusion.pretraining_loss(model, text, real, generator=seeded(7), **way)
                for way in ways
            ]
        else:
            plain = (loss.sum(1) / answer.sum(1)).mean()
            found = [diffusion.sft_loss(model, text, answer, generator=seeded(7))]
        for value in found:
            assert torch.equal(value, plain)


def test_band_clips_t():
    plain = diffusion.sample_mask_ratio(4000, generator=seeded())
    banded = diffusion.sample_mask_ratio(4000, band=(0.3, 0.8), generator=seeded())
    low, high = 0.3 * (1 - EPS) + EPS, 0.8 * (1 - EPS) + EPS
    torch.testing.assert_close(banded, plain.clamp(low, high))
    assert (banded <= low + 1e-6).float().mean().item() == pytest.approx(0.3, abs=0.01)
    assert (banded >= high - 1e-6).float().mean().item() == pytest.approx(0.2, abs=0.01)


def test_complementary_masks_predict_each_token_once():
    text = tokens(200)
    maskable = torch.rand(text.shape, generator=seeded(2)) < 0.7
    noised = corrupt(
        text, maskable, MASK, options=LossOptions(complementary=True), generator=seeded()
    )
    first, second = noised.masked_BL.chunk(2)
    assert torch.equal(first ^ second, maskable)
    assert torch.equal(noised.noisy_BL == MASK, noised.masked_BL)
    assert torch.equal(noised.tokens_BL, torch.cat((text, text)))
    ratio, inverse = noised.ratio.chunk(2)
    torch.testing.assert_close(ratio + inverse, torch.ones_like(ratio))
    assert noised.ratio.min() >= EPS - 1e-6 and noised.copies == 2
    share = (first & (ratio < 0.3)).sum() / (maskable & (ratio < 0.3)).sum()
    assert share.item() == pytest.approx(0.15, abs=0.03)


def test_complementary_loss_by_hand():
    """The mean of the losses of a mask and of its inverse, each by its own ratio."""
    model, text = small(), tokens()
    answer = torch.arange(16) >= torch.tensor([[4], [6], [9]])
    options = LossOptions(complementary=True)
    noised = corrupt(text, answer, MASK, options=options, generator=seeded(3))
    halves = [
        (diffusion.masked_cross_entropy(model, noisy, text, masked) / ratio).sum(1)
        for noisy, masked, ratio in zip(
            *(part.chunk(2) for part in (noised.noisy_BL, noised.masked_BL, noised.ratio)),
            strict=True,
        )
    ]
    sft = diffusion.sft_loss(model, text, answer, options=options, generator=seeded(3))
    expected = (sum(halves) / 2 / answer.sum(1)).mean()
    torch.testing.assert_close(sft, expected)
    pretraining = diffusion.pretraining_loss(
        model, text, answer.new_ones(answer.shape), options=options, generator=seeded(3)
    )
    assert pretraining.isfinite()


def test_curriculum_masks_far_positions_more_often_and_anneals():
    text = tokens(4000, 12)
    real = torch.ones_like(text, dtype=torch.bool)
    options = LossOptions(curriculum=CURRICULUM)
    shares = []
    for progress in (0.0, 0.25, 0.5, 1.0):
        noised = corrupt(text, real, MASK, options=options, progress=progress, generator=seeded())
        shares.append(
            [noised.masked_BL[:, part].float().mean().item() for part in (slice(8), slice(8, 12))]
        )
    # The mean of 1 - (1 - p)^(1 + s) over p ~ U(0, 1) is 1 - 1 / (2 + s), with s = 2, 1, 0, 0.
    for (near, far), strength in zip(shares, (2, 1, 0, 0), strict=True):
        assert near == pytest.approx(0.5, abs=0.01)
        assert far == pytest.approx(1 - 1 / (2 + strength), abs=0.01)
    assert [CURRICULUM.strength_at(p) for p in (0, 0.25, 0.5, 0.7, 1)] == [2, 1, 0, 0, 0]


@pytest.mark.parametrize("strength", [0.5, 2.0, 5.0])
def test_curriculum_is_a_bound_that_the_true_model_attains(strength):
    """With the true conditionals the loss is -log p(text), whatever the strength.

    Every mask of four tokens, two of them far, is enumerated, and the ratio integrated.
    """
    joint = torch.rand((3,) * 4, dtype=torch.float64, generator=seeded(4)) + 0.1
    joint /= joint.sum()
    text = (1, 2, 0, 1)
    steps = 4000
    ratio = ((torch.arange(steps, dtype=torch.float64) + 0.5) / steps)[:, None]
    curriculum = Curriculum(original_context=2, strength=strength)
    places = torch.arange(4).expand(steps, 4)
    p, divisor = apply_curriculum(ratio, places, curriculum, 0.0)
    total = torch.zeros(steps, dtype=torch.float64)
    for mask in itertools.product((False, True), repeat=4):
        chance = torch.where(torch.tensor(mask), p, 1 - p).prod(1)
        for place in range(4):
            if mask[place]:
                others = [
                    slice(None) if hidden else token
                    for hidden, token in zip(mask, text, strict=True)
                ]
                seen = joint[tuple(others)]
                at = sum(mask[:place])
                own = seen.movedim(at, 0).flatten(1) if seen.ndim > 1 else seen[:, None]
                loss = -(own[text[place]].sum() / own.sum()).log()
                total += chance * loss / divisor[:, place]
    assert total.mean().item() == pytest.approx(-joint[text].log().item(), rel=1e-4)


def test_packed_documents_draw_a_ratio_each():
    documents = torch.tensor([[1] * 5 + [2] * 4 + [0] * 3, [0] * 2 + [1] * 10])
    real = documents > 0
    text = tokens(2, 12)
    noised = corrupt(text, real, MASK, documents_BL=documents, generator=seeded())
    ratios = [noised.ratio[documents_row] for documents_row in _each(documents)]
    assert all(ratio.unique().numel() == 1 for ratio in ratios)
    first, later, other = (float(ratio[0]) for ratio in ratios)
    expected = diffusion.sample_mask_ratio(2, generator=seeded())
    assert [first, other] == expected.tolist()
    apart = (later - first) / (1 - EPS) % 1
    assert apart == pytest.approx((5**0.5 - 1) / 2, abs=1e-6)
    assert not noised.masked_BL[~real].any()


def test_documents_of_a_row_draw_uniform_and_spread_ratios():
    """Over many rows each document's t is uniform; in one row of many they fill (0, 1) evenly."""
    documents = torch.arange(1, 101)[None].expand(2000, 100)
    real = documents > 0
    noised = corrupt(tokens(2000, 100), real, MASK, documents_BL=documents, generator=seeded())
    t = (noised.ratio - EPS) / (1 - EPS)
    for number in (0, 1, 50, 99):
        share = torch.histc(t[:, number], 10, 0, 1) / len(t)
        assert (share - 0.1).abs().max() < 0.002  # stratified over the rows
    gaps = t.sort(1).values.diff(dim=1)
    assert gaps.max() < 3 / 100 and gaps.min() > 0.3 / 100


def test_curriculum_counts_positions_within_the_document():
    documents = torch.tensor([[1] * 5 + [2] * 7])
    noised = corrupt(
        tokens(1, 12),
        documents > 0,
        MASK,
        documents_BL=documents,
        options=LossOptions(curriculum=Curriculum(original_context=4)),
        progress=0.0,
        generator=seeded(),
    )
    raised = noised.ratio != noised.divisor
    assert raised[0].tolist() == [False] * 4 + [True] + [False] * 4 + [True] * 3


def _each(documents):
    for row, counts in enumerate(documents.amax(1).tolist()):
        for name in range(1, counts + 1):
            place = torch.zeros_like(documents, dtype=torch.bool)
            place[row] = documents[row] == name
            yield place


def test_packed_loss_is_that_of_the_documents_alone():
    """Each document on a row of its own, at the same masks."""
    model, text = small(), tokens(1, 12)
    documents = torch.tensor([[1] * 5 + [2] * 7])
    noised = corrupt(text, documents > 0, MASK, documents_BL=documents, generator=seeded(2))
    total = torch.tensor(0.0)
    for part in (slice(0, 5), slice(5, 12)):
        loss = diffusion.masked_cross_entropy(
            model, noised.noisy_BL[:, part], text[:, part], noised.masked_BL[:, part]
        )
        total = total + (loss / noised.ratio[:, part]).sum()
    found = diffusion.pretraining_loss(
        model, text, documents > 0, documents_BL=documents, generator=seeded(2)
    )
    torch.testing.assert_close(found, total / 12, rtol=1e-5, atol=1e-6)


def test_z_loss_is_added_to_masked_tokens():
    model, text = small(), tokens()
    masked = torch.rand(text.shape, generator=seeded(2)) < 0.5
    noisy = text.masked_fill(masked, MASK)
    plain = diffusion.masked_cross_entropy(model, noisy, text, masked)
    added = diffusion.masked_cross_entropy(model, noisy, text, masked, z_loss=0.01) - plain
    expected = 0.01 * model(noisy).logsumexp(-1).square() * masked
    torch.testing.assert_close(added, expected, rtol=1e-3, atol=1e-5)


def test_loss_by_ratio_adds_up():
    model, text = small(), tokens(6)
    real = torch.ones_like(text, dtype=torch.bool)
    loss = diffusion.pretraining_loss(model, text, real, generator=seeded())
    denoised = diffusion.denoise(model, text, real, attention_mask_BL=real, generator=seeded())
    loss_BL, noised = denoised.loss_BL, denoised.noised
    assert not loss_BL.requires_grad
    assert (loss_BL / noised.divisor).sum() / real.sum() == loss
    tenths = loss_by_ratio(loss_BL, noised.masked_BL, noised.ratio, buckets=10)
    assert torch.equal(denoised.loss_by_ratio(), tenths)
    sums, counts = loss_by_ratio(loss_BL, noised.masked_BL, noised.ratio, buckets=4)
    for bucket in range(4):
        rows = ((noised.ratio * 4).long() == bucket)[:, 0]
        assert counts[bucket] == noised.masked_BL[rows].sum()
        assert sums[bucket].item() == pytest.approx(loss_BL[rows].sum().item(), rel=1e-5)
    assert loss_by_ratio(loss_BL[:1], noised.masked_BL[:1], torch.ones(1, 1))[1][-1] > 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LossOptions(band=(0.5, 0.5)), r"band=\(0.5, 0.5\)"),
        (lambda: LossOptions(z_loss=-1), "z_loss=-1"),
        (lambda: LossOptions(complementary=True, curriculum=CURRICULUM), "beside a curriculum"),
        (lambda: Curriculum(original_context=0), "curriculum.original_context=0"),
        (lambda: Curriculum(original_context=1, strength=-1), "curriculum.strength=-1"),
        (lambda: Curriculum(original_context=1, until=1.0), r"curriculum.until=1.0"),
        (lambda: CURRICULUM.strength_at(1.5), "progress=1.5"),
    ],
)
def test_bad_options_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_answers_have_no_curriculum():
    with pytest.raises(ValueError, match="curriculum"):
        diffusion.sft_loss(
            small(), tokens(), tokens() > 0, options=LossOptions(curriculum=CURRICULUM)
        )
