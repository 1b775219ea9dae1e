"""The length of a canvas by the published rule: its confidence, its growth, and its bounds."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from model import canvas
from model.canvas import Growth
from model.config import LLaDAConfig
from model.llada import LLaDA

EOS = 1


def published(logits_GV, window):
    """The paper's metric, position by position from the end."""
    probabilities = logits_GV.softmax(-1)
    found = []
    for place in reversed(range(len(logits_GV))):
        if len(found) < window and logits_GV[place].argmax() == EOS:
            found.append(probabilities[place, EOS].item())
    return sum(found) / window


@pytest.mark.parametrize("window", [1, 3, 32, 100])
def test_confidence_is_the_published_one(window):
    torch.manual_seed(0)
    logits_BGV = 3 * torch.randn(5, 40, 6)
    logits_BGV[1, :, EOS] += 4  # nearly all ends
    logits_BGV[2, 30:, EOS] += 9  # ends at the end
    logits_BGV[3, :, EOS] -= 99  # none
    found = canvas.end_confidence(logits_BGV, EOS, window)
    expected = torch.tensor([published(logits_GV, window) for logits_GV in logits_BGV])
    torch.testing.assert_close(found, expected)
    assert found[3] == 0 < found[2]


def test_half_precision_is_summed_in_full():
    logits_BGV = torch.zeros(1, 64, 4, dtype=torch.bfloat16)
    logits_BGV[..., EOS] = 20
    assert canvas.end_confidence(logits_BGV, EOS, 32).dtype == torch.float32
    assert canvas.end_confidence(logits_BGV, EOS, 32).item() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(
    ("length", "confidence", "limit", "expected"),
    [
        (64, 0.49, 1000, 72),
        (64, 0.5, 1000, 64),
        (64, 0.0, 67, 67),
        (67, 0.0, 67, 67),
        (2044, 0.0, 4000, 2048),
        (2048, 0.0, 4000, 2048),
    ],
)
def test_growth(length, confidence, limit, expected):
    assert canvas.next_length(length, confidence, limit) == expected


@given(st.integers(1, 4096), st.floats(0, 1), st.integers(1, 4096))
def test_growth_is_bounded(length, confidence, limit):
    longer = canvas.next_length(length, confidence, limit)
    assert length <= longer <= length + canvas.PUBLISHED.step
    assert longer == length or (longer <= limit and longer <= canvas.PUBLISHED.longest)


def made(seed):
    torch.manual_seed(seed)
    shape = dict(d_model=16, n_heads=2, n_layers=1, mlp_hidden_size=16, vocab_size=12)
    ids = dict(mask_token_id=2, eos_token_id=EOS, pad_token_id=EOS)
    return LLaDA(LLaDAConfig(**shape, **ids, max_sequence_length=100)).eval()


@pytest.fixture(scope="module")
def network():
    return made(0)


def test_a_sure_model_keeps_the_first_canvas(network):
    assert canvas.fit(network, [3, 4, 5], EOS, growth=Growth(threshold=0)) == (64, 1)
    assert canvas.fit(network, [3] * 60, EOS, growth=Growth(threshold=0)) == (40, 1)


def test_an_unsure_model_fills_the_context(network):
    assert canvas.fit(network, [3, 4, 5, 6], EOS, growth=Growth(threshold=1)) == (96, 5)
    growth = Growth(initial=8, step=7, longest=24, threshold=1)
    assert canvas.fit(network, [3, 4, 5, 6], EOS, growth=growth) == (24, 4)


@torch.no_grad()
def ending(prompt):
    """A model that takes what follows for ends, the surer the longer the canvas is."""
    network = made(1)
    states_GD = network.hidden(torch.tensor([[*prompt, *[2] * 40]]))[0, len(prompt) :]
    network.head_weight.mul_(20)
    likeliest = (states_GD.mean(0) @ network.head_weight.T).argmax()
    network.head_weight[EOS] = network.head_weight[likeliest]
    return network


@pytest.mark.parametrize(("threshold", "expected"), [(0.6, 8), (0.8, 12), (0.9, 16)])
def test_it_stops_at_the_first_canvas_that_is_sure(threshold, expected):
    """Confidences are those of passes over the whole window, of every length in turn."""
    prompt = [3, 4, 5]
    network, growth = ending(prompt), Growth(initial=4, step=4, window=4, threshold=threshold)
    confidences = []
    for length in range(4, expected + 1, 4):
        with torch.no_grad():
            logits_GV = network(torch.tensor([[*prompt, *[2] * length]]))[0, 3:]
        confidences.append(published(logits_GV, 4))
    assert max(confidences[:-1]) < threshold <= confidences[-1]
    assert canvas.fit(network, prompt, EOS, growth=growth) == (expected, expected // 4)


def test_no_room(network):
    with pytest.raises(ValueError, match=r"prompt='100 tokens', allowed: fewer than 100"):
        canvas.fit(network, [3] * 100, EOS)


@pytest.mark.parametrize(
    ("changes", "word"),
    [({"threshold": 1.5}, "threshold=1.5"), ({"step": 0}, "step=0"), ({"longest": 8}, "longest=8")],
)
def test_refused_settings(changes, word):
    with pytest.raises(ValueError, match=word):
        Growth(**changes)
