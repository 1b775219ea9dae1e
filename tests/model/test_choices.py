"""Answers revealed by confidence, against loops that do it one at a time with all logits."""

import pytest
import torch

from model import choices, diffusion
from tests.model.test_llada import small


@pytest.fixture(scope="module")
def model():
    """In fp64, where two confidences are not equal by rounding."""
    return small().double()


def requests(count=9):
    draw = torch.Generator().manual_seed(3)
    prompts = [torch.randint(30, 60, (length,), generator=draw) for length in (1, 4, 9)]
    return [
        (prompts[n % 3], torch.randint(30, 60, (1 + n % 5,), generator=draw)) for n in range(count)
    ]


def logits_of(model, noisy_L, prompt_length, cfg_scale):
    """As upstream: c and u, the prompt masked, are combined to u + (s + 1)(c - u)."""
    logits_LV = model(noisy_L[None])[0]
    if not cfg_scale:
        return logits_LV
    blind_L = noisy_L.clone()
    blind_L[:prompt_length] = model.config.mask_token_id
    blind_LV = model(blind_L[None])[0]
    return blind_LV + (cfg_scale + 1) * (logits_LV - blind_LV)


def greedy(model, prompt_P, length, cfg_scale):
    """What upstream's check commits: the most confident argmax, one a pass."""
    mask = model.config.mask_token_id
    noisy_L = torch.cat((prompt_P, torch.full((length,), mask)))
    for _ in range(length):
        masked_N = (noisy_L == mask).nonzero()[:, 0]
        value_N, token_N = (
            logits_of(model, noisy_L, len(prompt_P), cfg_scale)[masked_N].softmax(-1).max(-1)
        )
        best = int(value_N.argmax())
        noisy_L[masked_N[best]] = token_N[best]
    return noisy_L[len(prompt_P) :]


def by_confidence(model, prompt_P, answer_A, cfg_scale):
    """The score of the answer's own tokens, revealed where the model is most confident."""
    mask = model.config.mask_token_id
    whole_L = torch.cat((prompt_P, answer_A))
    noisy_L, total = torch.cat((prompt_P, torch.full_like(answer_A, mask))), 0.0
    for _ in answer_A:
        masked_N = (noisy_L == mask).nonzero()[:, 0]
        scores_NV = logits_of(model, noisy_L, len(prompt_P), cfg_scale)[masked_N].log_softmax(-1)
        best = int(scores_NV.amax(-1).argmax())
        place = masked_N[best]
        total += scores_NV[best, whole_L[place]].item()
        noisy_L[place] = whole_L[place]
    return total


@pytest.mark.parametrize("cfg_scale", [0.0, 0.7])
def test_scores_are_those_of_a_loop(model, cfg_scale):
    asked = requests()
    with torch.inference_mode():
        expected = [by_confidence(model, *request, cfg_scale) for request in asked]
    for budget in (None, 8):
        revealed = dict(
            choices.reveal_each(model, asked, cfg_scale=cfg_scale, tokens_per_pass=budget)
        )
        scores = [revealed[index].score for index in range(len(asked))]
        assert scores == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("cfg_scale", [0.0, 0.7])
def test_the_verdict_is_upstreams(model, cfg_scale):
    """Answers that greedy decoding gives, the same with one token changed, and others."""
    asked = requests()
    with torch.inference_mode():
        given = [greedy(model, prompt, len(answer), cfg_scale) for prompt, answer in asked]
    changed = [answer.clone() for answer in given]
    for number, answer in enumerate(changed):
        answer[number % len(answer)] += 1
    answers = [*given, *changed, *(answer for _, answer in asked)]
    prompts = [prompt for prompt, _ in asked] * 3
    truth = [
        torch.equal(answer, given[number % len(asked)]) for number, answer in enumerate(answers)
    ]
    assert truth[: 2 * len(asked)] == [True] * len(asked) + [False] * len(asked)
    for stops in (False, True):
        revealed = dict(
            choices.reveal_each(
                model,
                list(zip(prompts, answers, strict=True)),
                cfg_scale=cfg_scale,
                until_not_greedy=stops,
            )
        )
        assert [revealed[index].is_greedy for index in range(len(answers))] == truth


def test_a_single_token_has_its_likelihood(model):
    asked = [(prompt, answer[:1]) for prompt, answer in requests()]
    likelihoods = diffusion.log_likelihoods(model, asked, samples=4, batch_size=4)
    revealed = dict(choices.reveal_each(model, asked))
    scores = [revealed[index].score for index in range(len(asked))]
    assert scores == pytest.approx(likelihoods, rel=1e-6)


def test_choices_share_their_first_pass(model, monkeypatch):
    rows = []
    original = choices.states_of

    def counted(model, batch, cfg_scale):
        rows.append(len(batch))
        return original(model, batch, cfg_scale)

    monkeypatch.setattr(choices, "states_of", counted)
    prompt = torch.arange(30, 36)
    list(choices.reveal_each(model, [(prompt, torch.tensor([40 + n, 50])) for n in range(4)]))
    assert rows[0] == 1 and sum(rows) <= 1 + 4


def test_without_a_prompt_the_leftmost_token_comes_first(model):
    """All positions are equally confident at first, but for rounding."""
    answer = torch.tensor([40, 50, 45])
    ((_, revealed),) = choices.reveal_each(model, [(answer[:0], answer)])
    first = torch.tensor([model.config.mask_token_id] * 3)
    with torch.inference_mode():
        expected = model(first[None])[0, 0].log_softmax(-1)[40].item()
        expected += by_confidence(model, answer[:1], answer[1:], 0.0)
    assert revealed.score == pytest.approx(expected, rel=1e-9)


def test_an_empty_answer_is_refused(model):
    asked = [
        (torch.tensor([31]), torch.tensor([32])),
        (torch.tensor([31]), torch.tensor([]).long()),
    ]
    with pytest.raises(ValueError, match="answer is empty"):
        list(choices.reveal_each(model, asked))
