"""Generation: invariants of every pass, batches, stop tokens, and refused input."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model import sampler
from model.config import LLaDAConfig
from model.llada import LLaDA
from tests.model.sampling import (
    CACHES,
    MASK,
    MODEL,
    PAD,
    PROMPT,
    PROMPTS,
    SHORT,
    answers,
    padded,
    seeded,
)


@settings(max_examples=40, deadline=None)
@given(
    gen_length=st.integers(1, 30),
    block_length=st.integers(1, 12),
    extra=st.integers(0, 30),
    cache=st.sampled_from(CACHES),
    rule=st.sampled_from([{}, {"threshold": 0.2}, {"threshold": 0.9}, {"factor": 1.5}]),
    remasking=st.sampled_from(["low_confidence", "random"]),
    temperature=st.sampled_from([0.0, 1.0]),
    deferred=st.booleans(),
)
def test_every_pass(gen_length, block_length, extra, cache, rule, remasking, temperature, deferred):
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
        deferred_tokens=range(150) if deferred else (),
        generator=seeded(1),
        **rule,
    ):
        after = generation.tokens_BL
        known = before != MASK
        assert torch.equal(after[known], before[known])  # committed tokens never change
        start = (
            12 + int((before[:, 12:] == MASK).any(0).int().argmax()) // block_length * block_length
        )
        block = before[:, start : start + block_length] == MASK
        gained = (after != MASK).sum(1) - known.sum(1)
        assert (gained[block.any(1)] > 0).all()  # every row of the block commits
        passes += 1
        before = after
    assert generation.forward_passes == passes <= min(steps, 2 * gen_length)
    assert not (before == MASK).any()  # the mask is never emitted


@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("options", [{}, {"cfg_scale": 1.5}, {"repetition_penalty": 1.3}])
def test_padded_batch_gives_each_row_what_it_gets_alone(cache, side, options):
    rows = [PROMPTS[0][:7], PROMPTS[1], PROMPTS[2][:4]]
    batch, mask = padded(rows, side)
    together, _ = answers(batch, attention_mask_BP=mask, cache=cache, **options)
    for row, answer in zip(rows, together, strict=True):
        assert torch.equal(answer, answers(row[None], cache=cache, **options)[0][0])
    ignored, _ = answers(batch, cache=cache, **options)
    assert not torch.equal(ignored, together)  # the mask masks


def test_the_prompt_is_returned_as_it_was_given():
    batch, mask = padded([PROMPTS[0][:7], PROMPTS[1][:9]], "right")
    made = sampler.generate(MODEL, batch, attention_mask_BP=mask, **SHORT)
    assert torch.equal(made.tokens_BL[:, :9], batch)


def test_padding_may_be_the_mask_token():
    batch, mask = padded([PROMPTS[0][:7], PROMPTS[1]], "left")
    hidden = batch.masked_fill(mask == 0, MASK)
    one, other = (answers(prompt, attention_mask_BP=mask)[0] for prompt in (batch, hidden))
    assert torch.equal(one, other)


def test_stop_token_ends_the_row_with_padding():
    options = dict(gen_length=16, block_length=4)
    free, passes = answers(PROMPT[:1], **options)
    stop = free[0, 0].item()
    ended, fewer = answers(PROMPT[:1], stop_tokens=[stop], **options)
    assert ended[0, 0].item() == stop
    assert (ended[0, 1:] == PAD).all()
    assert fewer < passes


@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize("options", [{}, {"cfg_scale": 1.0}, {"threshold": 0.05}])
def test_rows_that_end_leave_the_batch_and_change_nothing(cache, options, monkeypatch):
    options = dict(options, gen_length=16, block_length=4, cache=cache)
    batch, mask = padded([PROMPTS[0][:7], PROMPTS[1], PROMPTS[2][:9]], "left")
    free, _ = answers(batch, attention_mask_BP=mask, **options)
    stops = [free[0, 3].item(), free[2, 8].item()]
    alone = [
        answers(row[shown.bool()][None], stop_tokens=stops, **options)
        for row, shown in zip(batch, mask, strict=True)
    ]
    sizes = []
    hidden = MODEL.hidden

    def observed(tokens_BL, *arguments, **named):
        sizes.append(len(tokens_BL))
        return hidden(tokens_BL, *arguments, **named)

    monkeypatch.setattr(MODEL, "hidden", observed)
    together, passes = answers(batch, attention_mask_BP=mask, stop_tokens=stops, **options)
    for (answer, _), row in zip(alone, together, strict=True):
        assert torch.equal(answer[0], row)
    assert len(sizes) == passes
    if "threshold" not in options:  # with it a row may wait for the others' blocks
        copies = 2 if "cfg_scale" in options else 1
        running = [sum(count > turn for _, count in alone) for turn in range(passes)]
        assert sizes == [copies * rows for rows in running]
        assert running[-1] < running[0]


def test_the_rest_of_the_window_is_skipped_once_all_rows_ended():
    free, _ = answers(PROMPT, gen_length=32, block_length=4)
    stops = free[:, 0].tolist()
    ended, passes = answers(PROMPT, gen_length=32, block_length=4, stop_tokens=stops)
    assert passes <= 4
    assert (ended[:, 4:] == PAD).all()


@pytest.mark.parametrize("steps", [5, 7, 11])
def test_steps_that_blocks_do_not_divide(steps):
    """18 tokens in blocks of 4 (the last has 2): each block has its share of the passes."""
    options = dict(gen_length=18, block_length=4, steps=steps)
    windows = [window.tokens_BL for window in sampler.stream(MODEL, PROMPT, **options)]
    assert len(windows) <= steps and not (windows[-1] == MASK).any()
    capped, passes = answers(PROMPT, threshold=1.0, **options)
    assert passes <= steps and not (capped == MASK).any()


def test_the_first_pass_is_the_same_with_and_without_a_cache():
    first = [next(sampler.stream(MODEL, PROMPT, cache=cache, **SHORT)) for cache in CACHES]
    assert all(torch.equal(first[0].tokens_BL, other.tokens_BL) for other in first[1:])


@pytest.mark.parametrize("cache", CACHES)
def test_grouped_keys_and_tied_weights(cache):
    torch.manual_seed(0)
    shape = dict(d_model=32, n_heads=4, n_kv_heads=2, n_layers=2, mlp_hidden_size=48)
    ids = dict(vocab_size=97, mask_token_id=5, eos_token_id=1, pad_token_id=1)
    model = LLaDA(LLaDAConfig(**shape, **ids, weight_tying=True, max_sequence_length=64)).eval()
    batch, mask = padded([PROMPTS[0][:7] % 90 + 6, PROMPTS[1] % 90 + 6], "left")
    options = dict(cache=cache, **SHORT)
    together = sampler.generate(model, batch, attention_mask_BP=mask, **options).tokens_BL
    alone = sampler.generate(model, batch[:1, 5:], **options).tokens_BL
    assert torch.equal(together[0, 12:], alone[0, 7:])


def test_generated_tokens_can_be_trained_on():
    made = sampler.generate(MODEL, PROMPT, cache="dual", **SHORT).tokens_BL
    model = copy.deepcopy(MODEL).train()
    model(made).square().mean().backward()
    assert model.head_weight.grad is not None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gen_length": 0}, "gen_length=0, allowed: 1 or more"),
        ({"block_length": 0}, "block_length=0, allowed: 1 or more"),
        ({"threshold": 1.5}, "threshold=1.5, allowed: 0 to 1"),
        ({"threshold": -0.1}, "threshold=-0.1, allowed: 0 to 1"),
        ({"threshold": float("nan")}, "threshold=nan, allowed: 0 to 1"),
        ({"factor": 0.0}, "factor=0.0, allowed: above 0"),
        ({"threshold": 0.9, "factor": 1.0}, "threshold=0.9 and factor=1.0, allowed: one of them"),
        ({"steps": 1}, r"steps=1, allowed: at least one a block \(2\)"),
        ({"temperature": -1.0}, "temperature=-1.0, allowed: 0 or more"),
        ({"cfg_scale": -1.0}, "cfg_scale=-1.0, allowed: 0 or more"),
        ({"repetition_penalty": 0.0}, "repetition_penalty=0.0, allowed: above 0"),
        ({"cache": "triple"}, "cache='triple', allowed: none, prefix, dual"),
        ({"remasking": "worst"}, "remasking='worst', allowed: low_confidence, random"),
        ({"stop_tokens": [999]}, "token 999, allowed: 0 to 319"),
        ({"gen_length": 600}, r"prompt of 12 tokens \+ gen_length=600, allowed: at most 512"),
        ({"attention_mask_BP": torch.ones(2, 11)}, r"attention_mask_BP: shape \(2, 11\), allowed"),
        ({"attention_mask_BP": torch.zeros(2, 12)}, "attention_mask_BP: a row hides its whole"),
    ],
)
def test_refused_options(changes, message):
    with pytest.raises(ValueError, match=message):
        answers(PROMPT, **changes)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (PROMPT[:, :0], "empty prompt"),
        (PROMPT[:0], "empty prompt"),
        (PROMPT[0], r"prompt of shape \(12,\)"),
        (torch.full((1, 600), 5), "prompt of 600 tokens"),
        (torch.tensor([[5, MASK]]), "mask token 319"),
        (torch.tensor([[5, 320]]), "prompt tokens 5 to 320, allowed: 0 to 319"),
    ],
)
def test_refused_prompts(prompt, message):
    with pytest.raises(ValueError, match=message):
        answers(prompt)


@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_broken_weights_are_named(cache, value):
    model = copy.deepcopy(MODEL)
    with torch.no_grad():
        model.model["transformer"]["blocks"][0].q_proj.weight[0, 0] = value
    with pytest.raises(ValueError, match="logits are not finite"):
        sampler.generate(model, PROMPT, cache=cache, **SHORT)
