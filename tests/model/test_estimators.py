"""Log-probability estimators: what each hides and scores, and that it is what its paper says."""

import itertools

import pytest
import torch

from model import checkpoint, estimators, lora
from tests.model.test_golden import GOLDEN

ROWS, PROMPT, LENGTH = 3, 6, 14
ANSWER = torch.zeros(ROWS, LENGTH, dtype=torch.bool)
ANSWER[:, PROMPT:] = True
SEEN = torch.ones_like(ANSWER)
TOKENS = torch.randint(2, 300, (ROWS, LENGTH), generator=torch.Generator().manual_seed(3))
ORDER = torch.zeros(ROWS, LENGTH, dtype=torch.long)
ORDER[:, PROMPT:] = torch.stack([torch.randperm(LENGTH - PROMPT) + 1 for _ in range(ROWS)])


def random(seed=0):
    return torch.Generator().manual_seed(seed)


def draw(name, seed=0):
    """The views of every estimator on the same answers."""
    return {
        "one_pass": lambda: estimators.one_pass(
            ANSWER, ~ANSWER, prompt_mask=0.3, generator=random(seed)
        ),
        "complementary": lambda: estimators.complementary(ANSWER, generator=random(seed)),
        "elbo": lambda: estimators.quadrature(ANSWER, points=3, generator=random(seed)),
        "trajectory": lambda: estimators.trajectory(
            ORDER, ANSWER, slices=3, generator=random(seed)
        ),
    }[name]()


NAMES = ("one_pass", "complementary", "elbo", "trajectory")


@pytest.mark.parametrize("name", NAMES)
def test_what_is_scored_is_hidden_and_belongs_to_the_answer(name):
    for view in draw(name):
        assert not (view.scored_BL & ~view.hidden_BL).any()
        assert not (view.scored_BL & ~ANSWER).any()


@pytest.mark.parametrize("name", ["one_pass", "complementary", "trajectory"])
def test_every_token_is_scored_once(name):
    times = sum(view.scored_BL.int() for view in draw(name))
    assert torch.equal(times, ANSWER.int())


def test_one_pass_hides_some_of_the_prompt():
    (view,) = draw("one_pass")
    assert view.hidden_BL[ANSWER].all()
    assert 0 < view.hidden_BL[~ANSWER].sum() < (~ANSWER).sum()


def test_trajectory_hides_what_was_committed_later():
    views = draw("trajectory")
    for earlier, later in itertools.pairwise(views):
        for row in range(ROWS):
            before, after = ORDER[row][earlier.scored_BL[row]], ORDER[row][later.scored_BL[row]]
            if len(before) and len(after):
                assert before.max() < after.min()
        assert torch.equal(later.hidden_BL, earlier.hidden_BL & ~earlier.scored_BL)


def test_as_many_slices_as_passes_give_the_samplers_own_probability():
    """With one pass a slice every token is scored under the very window that it was chosen from."""
    count = LENGTH - PROMPT
    views = estimators.trajectory(ORDER, ANSWER, slices=count, generator=random())
    for view in views:
        for row in range(ROWS):
            (place,) = view.scored_BL[row].nonzero()[:, 0] if view.scored_BL[row].any() else [None]
            if place is not None:
                assert torch.equal(view.hidden_BL[row], ORDER[row] >= ORDER[row][place])


def test_monte_carlo_is_exact_on_equal_tokens_and_stratified():
    """With log p = -1 for every token each draw gives the length, whatever the counts."""
    many = ANSWER[:1].repeat(4000, 1)
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
    """Costs that depend on what is hidden, every mask enumerated; against coins at ratio t."""
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
    views = [
        estimators.quadrature(ANSWER.repeat(400, 1), points=3, generator=random(s)) for s in (1, 2)
    ]
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
