"""A request gets what it gets alone, whatever the batch, and a row that ends makes room."""

import pytest
import torch

from model import sampler
from model.batching import Request, generate_all, pad_left
from tests.model.test_llada import small

SETTINGS = {
    "plain": {},
    "prefix": {"cache": "prefix"},
    "dual": {"cache": "dual", "threshold": 0.05},
    "factor": {"factor": 0.9},
    "guided": {"cfg_scale": 1.5, "cache": "prefix"},
    "penalty": {"repetition_penalty": 1.3},
    "deferred": {"deferred_tokens": (3, 4), "forbidden_tokens": (5,)},
    "random": {"remasking": "random"},
    "warm": {"temperature": 0.7},
    "stops": {"stop_tokens": (2, 7, 11, 13, 17, 19, 23, 29)},
}


@pytest.fixture(scope="module")
def model():
    """In fp64, where two confidences are not equal by rounding."""
    return small(pad_token_id=2).double()


def requests(count=11):
    draw = torch.Generator().manual_seed(5)
    made = []
    for number in range(count):
        length = int(torch.randint(1, 12, (), generator=draw))
        prompt = torch.randint(30, 60, (length,), generator=draw).tolist()
        canvas = int(torch.randint(1, 21, (), generator=draw))
        steps = max(canvas - number % 3, -(-canvas // 4))
        made.append(Request(prompt, canvas, steps, seed=number))
    return made


def answers(model, asked, size, **options):
    found = generate_all(model, asked, block_length=4, batch_size=size, **options)
    return {answer.index: answer for answer in found}


@pytest.mark.parametrize("name", SETTINGS)
def test_batch_and_order_change_nothing(model, name):
    asked = requests()
    alone = answers(model, asked, 1, **SETTINGS[name])
    assert sorted(alone) == list(range(len(asked)))
    for size in (3, 8):
        assert answers(model, asked, size, **SETTINGS[name]) == alone
    turned = answers(model, asked[::-1], 4, **SETTINGS[name])
    for index, answer in turned.items():
        same = alone[len(asked) - 1 - index]
        assert (answer.tokens, answer.passes) == (same.tokens, same.passes)


@pytest.mark.parametrize("name", [name for name in SETTINGS if name not in ("warm", "random")])
def test_a_request_alone_is_the_sampler(model, name):
    for number, request in enumerate(requests(5)):
        ours = answers(model, [request], 1, **SETTINGS[name])[0]
        theirs = sampler.generate(
            model,
            torch.tensor([request.prompt]),
            gen_length=request.gen_length,
            block_length=4,
            steps=request.steps,
            **SETTINGS[name],
        )
        assert ours.tokens == theirs.tokens_BL[0, len(request.prompt) :].tolist(), number
        assert ours.passes == theirs.forward_passes


def test_one_generator_draws_as_the_samplers(model):
    request = Request([31, 32], 12, seed=9)
    for options in (SETTINGS["warm"], SETTINGS["random"]):
        theirs = sampler.generate(
            model,
            torch.tensor([request.prompt]),
            gen_length=12,
            block_length=4,
            generator=torch.Generator().manual_seed(9),
            **options,
        )
        ours = answers(model, [request], 1, **options)[0]
        assert ours.tokens == theirs.tokens_BL[0, 2:].tolist()


def test_a_row_that_ends_makes_room(model, monkeypatch):
    """Two rows at a time: the long answer stays, and short ones take turns beside it."""
    sizes = []
    original = sampler.denoise

    def counted(window, *arguments, **options):
        sizes.append(len(window.tokens_BL))
        original(window, *arguments, **options)

    monkeypatch.setattr(sampler, "denoise", counted)
    asked = [Request([40], 20), *(Request([40 + n], 4) for n in range(5))]
    order = [answer.index for answer in generate_all(model, asked, block_length=4, batch_size=2)]
    assert order == [1, 2, 3, 4, 0, 5] or order.index(0) == 4
    assert sizes == [2] * 20


def test_an_answer_that_the_caller_ends_is_cut_at_a_border(model):
    asked = requests()
    alone = answers(model, asked, 1)
    told = {}

    def is_complete(index, tokens):
        told[index] = tokens[:]
        return len(tokens) >= 8

    for index, answer in answers(model, asked, 3, is_complete=is_complete).items():
        whole = alone[index].tokens
        assert answer.tokens == whole[: 8 if len(whole) > 8 else len(whole)]
        assert told.get(index, []) == whole[: len(told.get(index, []))]
        if len(whole) <= 8:
            assert answer == alone[index]
    assert max(map(len, told.values())) == 8


def test_every_pass_is_told_with_its_rows(model):
    asked, rows = requests(), []
    together = answers(model, asked, 3, on_pass=rows.append)
    assert max(rows) == 3 and min(rows) >= 1
    # A row that waits for the others of its block is in the pass, and has no mask of its own.
    assert sum(rows) >= sum(answer.passes for answer in together.values())
    rows.clear()
    alone = answers(model, asked, 1, on_pass=rows.append)
    assert rows == [1] * sum(answer.passes for answer in alone.values())


def test_the_budget_of_tokens_bounds_a_batch(model):
    asked = requests()
    alone = answers(model, asked, 1)
    assert answers(model, asked, 8, tokens_per_batch=20) == alone
    assert answers(model, asked, 8, tokens_per_batch=1) == alone


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (Request([], 4), "empty prompt"),
        (Request([1], 0), "gen_length=0"),
        (Request([1] * 100, 60), "the context"),
        (Request([1], 8, steps=1), "steps=1, allowed: at least one a block"),
        (Request([10**6], 4), "allowed: 0 to"),
    ],
)
def test_what_cannot_be_asked_is_refused_before_a_pass(model, request_, words, monkeypatch):
    monkeypatch.setattr(sampler, "denoise", lambda *_, **__: pytest.fail("a pass was made"))
    with pytest.raises(ValueError, match=words):
        list(generate_all(model, [Request([1], 4), request_], block_length=4, batch_size=2))


def test_prompts_are_padded_on_the_left():
    tokens_BP, seen_BP = pad_left([[5, 6, 7], [8]], pad=2)
    assert tokens_BP.tolist() == [[5, 6, 7], [2, 2, 8]]
    assert seen_BP.tolist() == [[True] * 3, [False, False, True]]
