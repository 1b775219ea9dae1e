"""Log-probability estimators: each hides and scores the tokens that its paper says."""

import itertools

import pytest
import torch

from model import checkpoint, estimators, lora
from tests.model.test_golden import GOLDEN

ROWS, PROMPT, LENGTH = 3, 6, 14
GENERATED = torch.zeros(ROWS, LENGTH, dtype=torch.bool)
GENERATED[:, PROMPT:] = True
ANSWER = GENERATED.clone()
ANSWER[1, 11:] = False  # a stop token at 10, and padding behind it
SEEN = torch.ones_like(ANSWER)
TOKENS = torch.randint(2, 300, (ROWS, LENGTH), generator=torch.Generator().manual_seed(3))
ORDER = torch.zeros(ROWS, LENGTH, dtype=torch.long)
ORDER[:, PROMPT:] = torch.stack([torch.randperm(LENGTH - PROMPT) + 1 for _ in range(ROWS)])
ORDER[1, 11:] = LENGTH - PROMPT


def random(seed=0):
    return torch.Generator().manual_seed(seed)


def slices(size, passes=64, seed=0, order=ORDER, answer=ANSWER, generated=GENERATED):
    return estimators.trajectory(
        generated, answer, order, slice_tokens=size, passes=passes, generator=random(seed)
    )


def draw(name, seed=0):
    """The views of every estimator on the same answers."""
    return {
        "one_pass": lambda: estimators.one_pass(
            GENERATED, ANSWER, ~GENERATED, prompt_mask=0.3, generator=random(seed)
        ),
        "complementary": lambda: estimators.complementary(
            GENERATED, ANSWER, generator=random(seed)
        ),
        "elbo": lambda: estimators.quadrature(GENERATED, ANSWER, points=3, generator=random(seed)),
        "trajectory": lambda: slices(3, seed=seed),
    }[name]()


NAMES = ("one_pass", "complementary", "elbo", "trajectory")


@pytest.mark.parametrize("name", NAMES)
def test_what_is_scored_is_hidden_and_belongs_to_the_answer(name):
    for view in draw(name):
        assert not (view.scored_BL & ~view.hidden_BL).any()
        assert not (view.scored_BL & ~ANSWER).any()


@pytest.mark.parametrize("name", ["one_pass", "trajectory"])
def test_every_token_is_scored_once(name):
    times = sum(view.scored_BL.int() for view in draw(name))
    assert torch.equal(times, ANSWER.int())
    assert torch.equal(estimators.token_weights(draw(name)), ANSWER.float())


@pytest.mark.parametrize("name", NAMES)
def test_the_tail_behind_the_answer_is_hidden_in_every_view(name):
    """Padding in sight would tell where the answer ends."""
    for view in draw(name):
        assert view.hidden_BL[GENERATED & ~ANSWER].all()


def test_one_pass_hides_some_of_the_prompt():
    (view,) = draw("one_pass")
    assert view.hidden_BL[GENERATED].all()
    assert 0 < view.hidden_BL[~GENERATED].sum() < (~GENERATED).sum()


def test_complementary_is_coupled_grpos():
    """(log p0 + log p1 / t) / 2 where the first of the pair hides a token, or with 1 / (1 - t)."""
    first, second, whole = draw("complementary")
    assert torch.equal(first.scored_BL ^ second.scored_BL, ANSWER)
    assert torch.equal(whole.hidden_BL, GENERATED) and torch.equal(whole.scored_BL, ANSWER)
    assert (whole.weight_B == 0.5).all()
    t_B = 0.5 / first.weight_B
    assert (t_B > 0.2).all() and (t_B < 0.8).all()
    torch.testing.assert_close(0.5 / second.weight_B, 1 - t_B)
    model = checkpoint.load(GOLDEN, dtype=torch.float32)

    def scored(hidden_BL):
        logits = model(TOKENS.masked_fill(hidden_BL, model.config.mask_token_id))
        return logits.log_softmax(-1).gather(-1, TOKENS[..., None])[..., 0]

    with torch.no_grad():
        found = estimators.log_probabilities(model, TOKENS, SEEN, [first, second, whole])
        each = torch.where(
            first.scored_BL,
            scored(first.hidden_BL) / t_B[:, None],
            scored(second.hidden_BL) / (1 - t_B)[:, None],
        )
        expected = (scored(GENERATED) + each) / 2 * ANSWER
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_the_shares_of_a_pair_are_those_of_its_ratio():
    many = ANSWER[:1].repeat(4000, 1)
    first, second, _ = estimators.complementary(many, many, generator=random())
    for view, ratio in ((first, 0.5 / first.weight_B), (second, 0.5 / second.weight_B)):
        error = view.scored_BL.sum(1) / many.sum(1) - ratio
        assert abs(error.mean()) < 0.01


def test_trajectory_hides_what_was_committed_later():
    views = slices(3)
    for earlier, later in itertools.pairwise(views):
        for row in range(ROWS):
            before, after = ORDER[row][earlier.scored_BL[row]], ORDER[row][later.scored_BL[row]]
            if len(before) and len(after):
                assert before.max() < after.min()
        assert not (later.hidden_BL & ~earlier.hidden_BL).any()
        assert torch.equal(
            later.hidden_BL & ANSWER, earlier.hidden_BL & ANSWER & ~earlier.scored_BL
        )


def test_a_slice_a_token_gives_the_samplers_own_probability():
    """With one pass per slice a token sees exactly the tokens that the sampler saw."""
    for view in slices(1):
        for row in range(ROWS):
            for place in view.scored_BL[row].nonzero()[:, 0]:
                earlier = (ORDER[row] < ORDER[row][place]) & ANSWER[row]
                assert torch.equal(view.hidden_BL[row], GENERATED[row] & ~earlier)


@pytest.mark.parametrize("size", [1, 2, 8])
def test_a_slice_has_so_many_tokens_and_a_pass_is_never_cut(size):
    """Long answers get more slices, not longer ones."""
    length = 100
    generated = torch.ones(4, length, dtype=torch.bool)
    order = torch.stack([torch.randperm(length) for _ in range(4)]) + 1
    views = slices(size, 1000, order=order, answer=generated, generated=generated)
    assert all(view.scored_BL.sum(1).max() <= size for view in views)
    assert len(views) <= -(-length // size) + 1
    passes = (order + 4) // 5  # five tokens a pass
    for view in slices(size, 1000, order=passes, answer=generated, generated=generated):
        for row, scored in zip(passes, view.scored_BL, strict=True):
            assert not set(row[scored].tolist()) & set(row[~scored].tolist())


def test_slices_that_are_drawn_stand_for_all():
    """The weighted sum of any function of the tokens has the expectation of the full sum."""
    length, passes = 40, 3
    generated = torch.ones(2000, length, dtype=torch.bool)
    order = (torch.randperm(length) + 1).repeat(2000, 1)
    views = slices(5, passes, order=order, answer=generated, generated=generated)
    assert len(views) == passes
    weight = estimators.token_weights(views)
    assert torch.equal(weight > 0, torch.stack([view.scored_BL for view in views]).any(0))
    assert (sum(view.scored_BL.int() for view in views) <= 1).all()
    value = torch.randn(length, generator=random(1))
    found = (weight * value).sum(1)
    assert abs(found.mean() - value.sum()) < 5 * found.std() / 2000**0.5


def test_rows_without_a_token_in_a_view_change_nothing():
    model = checkpoint.load(GOLDEN, dtype=torch.float32).eval()
    views = slices(2)
    assert any(0 < view.scored_BL.any(1).sum() < ROWS for view in views)
    with torch.no_grad():
        together = estimators.log_probabilities(model, TOKENS, SEEN, views)
        for row in range(ROWS):
            rows = torch.tensor([row])
            alone = estimators.log_probabilities(
                model, TOKENS[rows], SEEN[rows], [view.rows(rows) for view in views]
            )
            torch.testing.assert_close(together[rows], alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("temperature", [0.5, 1.0])
def test_scores_are_those_of_the_temperature(temperature):
    """The distribution that the sampler draws from: softmax(logits / T)."""
    model = checkpoint.load(GOLDEN, dtype=torch.float32).eval()
    (view,) = estimators.one_pass(
        GENERATED, ANSWER, ~GENERATED, prompt_mask=0.0, generator=random()
    )
    with torch.no_grad():
        found = estimators.log_probabilities(model, TOKENS, SEEN, [view], temperature=temperature)
        logits = model(TOKENS.masked_fill(GENERATED, model.config.mask_token_id)) / temperature
    expected = logits.log_softmax(-1).gather(-1, TOKENS[..., None])[..., 0] * ANSWER
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_monte_carlo_is_exact_on_equal_tokens_and_stratified():
    """With log p = -1 for every token each draw gives the length, whatever the counts."""
    many = GENERATED[:1].repeat(4000, 1)
    for draws in (1, 4):
        views = estimators.monte_carlo(many, draws=draws, generator=random())
        for view in views:
            estimate = draws * view.weight_B * view.scored_BL.sum(1)
            assert (estimate - (LENGTH - PROMPT)).abs().max() < 1e-4
    counts = torch.stack([view.hidden_BL.sum(1) for view in views]).sort(0).values
    assert torch.equal(counts.diff(dim=0), torch.full((3, 4000), (LENGTH - PROMPT) // 4))


def test_monte_carlo_hides_exactly_as_many_as_it_says_each_alike():
    """Counts are uniform on 1..A, and every token is hidden alike often."""
    rows, prompt = 3000, torch.tensor([[1], [4], [9]]).repeat(1000, 1)
    answer = torch.arange(LENGTH) >= prompt
    (view,) = estimators.monte_carlo(answer, draws=1, generator=random())
    assert not (view.hidden_BL & ~answer).any()
    count = view.hidden_BL.sum(1)
    torch.testing.assert_close(view.weight_B * count, answer.sum(1).float())
    for start in (1, 4, 9):
        mine, length = prompt[:, 0] == start, LENGTH - start
        share = torch.bincount(count[mine], minlength=length + 1)[1:] / (rows / 3)
        assert (share - 1 / length).abs().max() < 0.002
        often = view.hidden_BL[mine][:, start:].float().mean(0)
        assert (often - (length + 1) / (2 * length)).abs().max() < 0.05


def test_monte_carlo_is_unbiased_and_varies_less_than_coins():
    """Costs depend on the mask; the mean over all masks is exact, coins at ratio t vary more."""
    length = 6
    answer = torch.ones(60000, length, dtype=torch.bool)
    own_L = torch.linspace(0.5, 3.0, length)

    def cost(hidden_BL):
        return (hidden_BL * own_L).sum(1) * (1 + hidden_BL.float().mean(1))

    sizes = {k: list(itertools.combinations(range(length), k)) for k in range(1, length + 1)}
    exact = 0.0
    for k, sets in sizes.items():
        masks = torch.zeros(len(sets), length, dtype=torch.bool)
        for row, places in enumerate(sets):
            masks[row, list(places)] = True
        exact += (cost(masks) * length / k).mean().item() / length
    (view,) = estimators.monte_carlo(answer, draws=1, generator=random())
    counted = view.weight_B * cost(view.hidden_BL)
    assert counted.mean().item() == pytest.approx(exact, rel=0.01)
    t_B1 = torch.rand(len(answer), 1, generator=random(1))
    coins = torch.rand(answer.shape, generator=random(2)) < t_B1
    tossed = cost(coins) / t_B1[:, 0]
    assert tossed.mean().item() == pytest.approx(exact, rel=0.05)
    assert counted.var() < 0.76 * tossed.var()


def test_quadrature_is_exact_where_the_loss_is_a_polynomial():
    """With log p = -1 for every token, E over masks of sum / t is the length, at every node."""
    many = ANSWER[:1].repeat(1200, 1)
    views = [estimators.quadrature(many, many, points=3, generator=random(s)) for s in (1, 2)]
    for drawn in views:
        estimate = sum(view.weight_B * view.scored_BL.sum(1) for view in drawn)
        assert estimate.mean().item() == pytest.approx(LENGTH - PROMPT, rel=0.05)
    assert sum(v.weight_B[0] * t for v, t in zip(views[0], nodes(3), strict=True)).item() == (
        pytest.approx(1.0)
    )


def nodes(points):
    from_minus_one = torch.tensor([-(0.6**0.5), 0.0, 0.6**0.5])
    assert points == 3
    return (from_minus_one + 1) / 2


@pytest.mark.parametrize("name", NAMES)
def test_policy_equals_reference_before_the_first_update(name):
    model = checkpoint.load(GOLDEN, dtype=torch.float32)
    wrapped = lora.attach(model, rank=4, alpha=8, dropout=0.1, targets=("q_proj",))
    model.eval()
    arguments = (model, TOKENS, SEEN, draw(name))
    with torch.no_grad():
        new = estimators.log_probabilities(*arguments)
        with wrapped.disable_adapter():
            reference = estimators.log_probabilities(*arguments)
    assert new[ANSWER].any() and not new[~ANSWER].any()
    assert torch.equal(new, reference)


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_draws_the_same_views(name):
    for one, other in zip(draw(name), draw(name), strict=True):
        assert torch.equal(one.hidden_BL, other.hidden_BL)
    if name != "trajectory":
        assert any(
            not torch.equal(one.hidden_BL, other.hidden_BL)
            for one, other in zip(draw(name), draw(name, seed=1), strict=True)
        )
