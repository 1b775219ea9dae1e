"""How a token is chosen: temperature, guidance, penalties, remasking and parallel decoding."""

import copy

import pytest
import torch

from model import sampler
from model.remasking import choose
from model.window import Window
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


def test_generator_makes_temperature_reproducible():
    def draw(seed):
        return answers(PROMPT, temperature=1.0, generator=seeded(seed))[0]

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))


def test_temperature_samples_the_softmax():
    """One masked position, 4000 draws: frequencies follow softmax(logits / T) without the mask."""
    temperature = 0.7
    logits = MODEL(torch.cat((PROMPT[:1], torch.tensor([[MASK]])), 1))[0, -1].detach()
    logits[MASK] = -torch.inf
    expected = (logits / temperature).softmax(-1)
    drawn, _ = answers(
        PROMPT[:1].repeat(4000, 1),
        gen_length=1,
        block_length=1,
        temperature=temperature,
        generator=seeded(0),
    )
    found = torch.bincount(drawn[:, 0], minlength=len(logits)) / 4000
    error = (expected * (1 - expected) / 4000).sqrt()
    assert ((found - expected).abs() < 5 * error + 1e-3).all()


@pytest.mark.parametrize("cache", CACHES)
def test_guidance_changes_the_answer_and_zero_does_not(cache):
    plain, _ = answers(PROMPT, cache=cache)
    assert torch.equal(plain, answers(PROMPT, cache=cache, cfg_scale=0.0)[0])
    assert not torch.equal(plain, answers(PROMPT, cache=cache, cfg_scale=2.0)[0])


def test_guidance_is_the_published_formula():
    """One position: argmax of u + (cfg + 1)(c - u), u with the prompt masked."""
    window = torch.cat((PROMPT, torch.full((2, 1), MASK)), 1)
    with torch.no_grad():
        blind, seeing = MODEL(torch.full_like(window, MASK))[:, -1], MODEL(window)[:, -1]
    guided = blind + 3.5 * (seeing - blind)
    guided[:, MASK] = -torch.inf
    made, _ = answers(PROMPT, gen_length=1, block_length=1, cfg_scale=2.5)
    assert torch.equal(made[:, 0], guided.argmax(-1))


def test_random_remasking_commits_in_another_order():
    def order(remasking, seed):
        windows = sampler.stream(
            MODEL, PROMPT[:1], remasking=remasking, generator=seeded(seed), **SHORT
        )
        return [tuple((window.tokens_BL[0, 12:] == MASK).tolist()) for window in windows]

    assert order("random", 1) == order("random", 1)
    assert order("random", 1) != order("random", 2)
    assert order("low_confidence", 1) == order("low_confidence", 2) != order("random", 1)


def with_logits(prompt_BP, logits):
    """A copy of the model whose head gives `logits` ({token: logit}, else -9) after the prompt."""
    model = copy.deepcopy(MODEL)
    window = torch.cat((prompt_BP, torch.full((len(prompt_BP), 1), MASK)), 1)
    with torch.no_grad():
        state = model.hidden(window)[0, -1]
        wanted = torch.full((model.config.embedding_size,), -9.0)
        wanted[list(logits)] = torch.tensor(list(logits.values()))
        model.head_weight.copy_(torch.outer(wanted, state / state.square().sum()))
    return model


@pytest.mark.parametrize(("seen_logit", "other_logit"), [(2.0, 1.5), (-1.0, -1.5), (0.5, -0.1)])
def test_repetition_penalty_lowers_seen_tokens_whatever_the_sign(seen_logit, other_logit):
    seen, other = PROMPT[0, 3].item(), 301
    model = with_logits(PROMPT[:1], {seen: seen_logit, other: other_logit})
    options = dict(gen_length=1, block_length=1)
    free = sampler.generate(model, PROMPT[:1], **options)
    assert free.tokens_BL[0, -1] == seen
    share = []
    for penalty in (1.0, 2.0):
        drawn = sampler.generate(
            model,
            PROMPT[:1].repeat(2000, 1),
            temperature=1.0,
            repetition_penalty=penalty,
            generator=seeded(0),
            **options,
        )
        tokens = drawn.tokens_BL[:, -1]
        share.append((tokens == seen).sum().item() / (tokens == other).sum().item())
    assert share[1] < 0.8 * share[0]


def test_masks_and_padding_are_not_seen():
    batch, mask = padded([PROMPTS[0][:7], PROMPTS[1]], "right")
    window = Window(MODEL, batch, 4, mask, 0.0, "none")
    seen_BV = window.seen()
    assert not seen_BV[:, MASK].any() and not seen_BV[0, PAD]
    assert set(seen_BV[0].nonzero()[:, 0].tolist()) == set(PROMPTS[0][:7].tolist())
    window.open(0, 4)
    window.commit(torch.full((2, 4), 302), torch.tensor([[True, False, False, False]] * 2), [])
    assert window.seen()[:, 302].all() and not window.seen()[:, MASK].any()


def test_the_mask_is_never_emitted_even_as_the_best_token():
    model = with_logits(PROMPT[:1], {MASK: 20.0, 17: 3.0})
    made = sampler.generate(model, PROMPT[:1], gen_length=1, block_length=1)
    assert made.tokens_BL[0, -1] == 17


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("remasking", ["low_confidence", "random"])
def test_forbidden_tokens_are_never_emitted(temperature, remasking):
    options = dict(temperature=temperature, remasking=remasking)
    free, _ = answers(PROMPT, generator=seeded(1), **options)
    forbidden = free.unique().tolist()[:200]
    made, _ = answers(PROMPT, forbidden_tokens=forbidden, generator=seeded(1), **options)
    assert not torch.isin(made, torch.tensor(forbidden)).any()


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("rule", [{}, {"threshold": 0.0}, {"factor": 100.0}])
def test_deferred_tokens_are_committed_last(temperature, rule):
    """The token that would come first waits for the others, and never shares a pass with them."""
    options = dict(gen_length=16, block_length=16, temperature=temperature, **rule)

    def order(deferred):
        before, found = torch.full((16,), MASK), []
        for generation in sampler.stream(
            MODEL, PROMPT[:1], deferred_tokens=deferred, generator=seeded(2), **options
        ):
            after = generation.tokens_BL[0, 12:]
            found.append(after[(before == MASK) & (after != MASK)].tolist())
            before = after
        return found

    first = order([])[0][0]
    passes = order([first])
    assert first not in passes[0]
    assert all(set(new) == {first} or first not in new for new in passes)


def test_factor_rule():
    """The largest n with (n + 1)(1 - c_n) < factor over confidences sorted down; at least one."""
    confidence = torch.tensor([[0.9, 0.8, 0.7, 0.1]])
    masked = torch.ones_like(confidence).bool()
    for factor, count in ((0.1, 1), (0.21, 1), (0.61, 2), (1.21, 3), (5.0, 4)):
        assert choose(confidence, masked, 9, None, factor).sum() == count


@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize("rule", [{"threshold": 0.05}, {"factor": 1.9}])
def test_parallel_decoding_takes_fewer_passes_and_the_limits_are_sequential(cache, rule):
    one_by_one, passes = answers(PROMPT[:1], cache=cache)
    assert answers(PROMPT[:1], cache=cache, **rule)[1] < passes
    for strict in ({"threshold": 1.0}, {"factor": 1e-9}):
        made, strict_passes = answers(PROMPT[:1], cache=cache, **strict)
        assert torch.equal(made, one_by_one) and strict_passes == passes
