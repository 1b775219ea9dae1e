"""Generation: what must hold of every pass, batches, stops, guidance, and refused options."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model import checkpoint, sampler
from tests.model.test_golden import GOLDEN

MODEL = checkpoint.load(GOLDEN, dtype=torch.float32)
MASK = MODEL.config.mask_token_id
PROMPT = torch.randint(2, 300, (2, 12), generator=torch.Generator().manual_seed(0))
CACHES = ("none", "prefix", "dual")


@settings(max_examples=40, deadline=None)
@given(
    gen_length=st.integers(1, 30),
    block_length=st.integers(1, 12),
    extra=st.integers(0, 30),
    cache=st.sampled_from(CACHES),
    rule=st.sampled_from([{}, {"threshold": 0.2}, {"factor": 1.5}]),
    remasking=st.sampled_from(["low_confidence", "random"]),
    temperature=st.sampled_from([0.0, 1.0]),
)
def test_every_pass(gen_length, block_length, extra, cache, rule, remasking, temperature):
    steps = -(-gen_length // block_length) + extra
    before = torch.cat((PROMPT, torch.full((2, gen_length), MASK)), 1)
    passes = 0
    for generation in sampler.stream(
        MODEL,
        PROMPT,
        gen_length=gen_length,
        block_length=block_length,
        steps=steps,
        cache=cache,
        remasking=remasking,
        temperature=temperature,
        generator=torch.Generator().manual_seed(1),
        **rule,
    ):
        after = generation.tokens_BL
        known = before != MASK
        assert torch.equal(after[known], before[known])  # committed tokens never change
        assert (after != MASK).sum() > known.sum()  # every pass commits
        passes += 1
        before = after
    assert generation.forward_passes == passes <= steps
    assert not (before == MASK).any()  # the mask is never emitted


@pytest.mark.parametrize("cache", CACHES)
def test_padded_batch_gives_each_row_what_it_gets_alone(cache):
    options = dict(gen_length=16, block_length=8, cache=cache)
    short, long = PROMPT[:1, :7], PROMPT[1:]
    batch = torch.cat((torch.cat((torch.full((1, 5), 1), short), 1), long))
    mask = torch.ones_like(batch)
    mask[0, :5] = 0
    together = sampler.generate(MODEL, batch, attention_mask_BP=mask, **options).tokens_BL
    assert torch.equal(together[0, 12:], sampler.generate(MODEL, short, **options).tokens_BL[0, 7:])
    assert torch.equal(together[1], sampler.generate(MODEL, long, **options).tokens_BL[0])


def test_stop_token_ends_the_row_with_padding():
    options = dict(gen_length=16, block_length=4)
    free = sampler.generate(MODEL, PROMPT[:1], **options)
    stop = free.tokens_BL[0, 12].item()
    ended = sampler.generate(MODEL, PROMPT[:1], stop_tokens=[stop], **options)
    assert ended.tokens_BL[0, 12].item() == stop
    assert (ended.tokens_BL[0, 13:] == MODEL.config.pad_token_id).all()
    assert ended.forward_passes < free.forward_passes


def test_generator_makes_temperature_reproducible():
    def draw(seed):
        generator = torch.Generator().manual_seed(seed)
        return sampler.generate(
            MODEL, PROMPT, gen_length=16, block_length=8, temperature=1.0, generator=generator
        ).tokens_BL

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))


@pytest.mark.parametrize("cache", CACHES)
def test_guidance_changes_the_answer_and_zero_does_not(cache):
    options = dict(gen_length=16, block_length=8, cache=cache)
    plain = sampler.generate(MODEL, PROMPT, **options).tokens_BL
    assert torch.equal(plain, sampler.generate(MODEL, PROMPT, cfg_scale=0.0, **options).tokens_BL)
    guided = sampler.generate(MODEL, PROMPT, cfg_scale=2.0, **options).tokens_BL
    assert not torch.equal(plain, guided)


def test_repetition_penalty_lowers_negative_and_positive_logits():
    window = sampler._Window(MODEL, torch.tensor([[0, 1]]), 1, None, 0.0, "none")
    logits = torch.tensor([[[2.0, -2.0, 1.0]]])
    window.tokens_BL = torch.tensor([[0, 1]])
    assert sampler._penalise(logits, window, 2.0).tolist() == [[[1.0, -4.0, 1.0]]]


def test_factor_rule():
    """The largest n with (n + 1)(1 - c_n) < factor over confidences sorted down; at least one."""
    confidence = torch.tensor([[0.9, 0.8, 0.7, 0.1]])
    for factor, count in ((0.1, 1), (0.21, 1), (0.61, 2), (1.21, 3), (5.0, 4)):
        assert sampler._choose(confidence, 9, None, factor).sum() == count


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gen_length": 0}, "gen_length=0"),
        ({"block_length": 0}, "block_length=0"),
        ({"threshold": 1.5}, "threshold=1.5, allowed: 0 to 1"),
        ({"steps": 1}, "steps=1, allowed: at least one a block"),
        ({"temperature": -1.0}, "temperature=-1.0"),
        ({"cache": "triple"}, "cache=triple"),
        ({"gen_length": 600}, "at most 512"),
    ],
)
def test_refused_options(changes, message):
    with pytest.raises(ValueError, match=message):
        sampler.generate(MODEL, PROMPT, **{"gen_length": 16, "block_length": 8, **changes})


def test_refused_prompts():
    with pytest.raises(ValueError, match="prompt length=0"):
        sampler.generate(MODEL, PROMPT[:, :0], gen_length=4, block_length=4)
    with pytest.raises(ValueError, match="mask token 319"):
        sampler.generate(MODEL, torch.tensor([[5, MASK]]), gen_length=4, block_length=4)
