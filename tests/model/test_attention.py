"""Packed documents: each gets what it gets alone, at the cost of its own length."""

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from model import diffusion
from model.attention import WASTE, Packing, _groups
from tests.model.test_llada import small

ROWS = [[7, 3, 0, 12, 1], [5, 9, 9], [-4, 20]]
"""Lengths of documents; negative is padding before them."""


def packed(rows=ROWS):
    """tokens and documents [B, L], and each document's (row, start, end)."""
    length = max(sum(map(abs, row)) for row in rows) + 2
    documents = torch.zeros(len(rows), length, dtype=torch.long)
    places = []
    for number, row in enumerate(rows):
        start, name = 0, 0
        for size in row:
            if size > 0:
                name += 1
                documents[number, start : start + size] = name
                places.append((number, start, start + size))
            start += abs(size)
    tokens = torch.randint(0, 300, documents.shape, generator=torch.Generator().manual_seed(0))
    return tokens, documents, places


@pytest.mark.parametrize(
    "changes", [{}, {"n_kv_heads": 2}, {"yarn_scale": 2.0}], ids=["plain", "grouped", "yarn"]
)
@pytest.mark.parametrize("training", [True, False])
def test_a_document_gets_what_it_gets_alone(changes, training):
    model = small(**changes)
    tokens, documents, places = packed()
    with torch.set_grad_enabled(training):
        logits = model.head(model.hidden(tokens, documents_BL=documents))
        for row, start, end in places:
            alone = model(tokens[row : row + 1, start:end])[0]
            assert (logits[row, start:end] - alone).abs().max() < 1e-5
    assert logits.isfinite().all()


@pytest.mark.parametrize("checkpointed", [True, False])
@pytest.mark.parametrize("kv_heads", [4, 2])
def test_gradients_are_those_of_the_documents_alone(checkpointed, kv_heads):
    tokens, documents, places = packed()
    weights = torch.rand(tokens.shape, generator=torch.Generator().manual_seed(3))[..., None]
    gradients = []
    for together in (True, False):
        model = small(n_kv_heads=kv_heads).train()
        model.checkpoint_activations = checkpointed
        if together:
            hidden = model.hidden(tokens, documents_BL=documents)
            (hidden.square() * weights * (documents > 0)[..., None]).sum().backward()
        else:
            for row, start, end in places:
                hidden = model.hidden(tokens[row : row + 1, start:end])
                (hidden.square() * weights[row, start:end]).sum().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for one, other in zip(*gradients, strict=True):
        if one is None:
            assert other is None  # the head
            continue
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@settings(max_examples=30, deadline=None)
@given(rows=st.lists(st.lists(st.integers(-4, 9), min_size=1, max_size=6), min_size=1, max_size=3))
@example(rows=[[6], [6]])
def test_packing_is_attention_under_the_block_diagonal_mask(rows):
    _, documents, _ = packed(rows)
    same = (documents[:, :, None] == documents[:, None]) & (documents > 0)[:, :, None]
    generator = torch.Generator().manual_seed(1)
    queries = torch.randn(*documents.shape, 4, 8, generator=generator).transpose(1, 2)
    keys, values = (
        torch.randn(*documents.shape, 2, 8, generator=generator).transpose(1, 2) for _ in range(2)
    )
    attended = Packing(documents).attend(queries, keys, values)
    scores = queries @ keys.repeat_interleave(2, 1).transpose(2, 3) / 8**0.5
    probabilities = scores.masked_fill(~same[:, None], -torch.inf).softmax(-1).nan_to_num()
    expected = probabilities @ values.repeat_interleave(2, 1)
    torch.testing.assert_close(attended, expected, rtol=1e-5, atol=1e-5)


@given(lengths=st.lists(st.integers(1, 500), max_size=60))
def test_groups_cost_the_sum_of_squares(lengths):
    """Every document is in one group, and padding stays within the bound."""
    groups = _groups(lengths)
    assert sorted(index for group in groups for index in group) == list(range(len(lengths)))
    cost = sum(len(group) * max(lengths[index] for index in group) ** 2 for group in groups)
    assert cost <= WASTE * sum(length**2 for length in lengths)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([1, 2, 1, 0], "1 after document 2"),
        ([2, 2, 1, 0], "2 after document 0"),
        ([1, 0, 1, 1], "1 after document 1"),
        ([1, 3, 3, 3], "3 after document 1"),
    ],
)
def test_bad_numbers_are_refused(row, message):
    with pytest.raises(ValueError, match=message):
        small().hidden(torch.zeros(1, 4, dtype=torch.long), documents_BL=torch.tensor([row]))


def test_documents_stand_alone():
    tokens, documents, _ = packed()
    with pytest.raises(ValueError, match="beside an attention mask"):
        small().hidden(tokens, torch.ones_like(tokens), documents_BL=documents)
    with pytest.raises(ValueError, match=r"shape \(3, 4\)"):
        small().hidden(tokens, documents_BL=documents[:, :4])


def test_one_document_a_row_is_the_padded_batch():
    """The loss of packed rows with one document each is the plain loss, at the same draws."""
    model = small()
    tokens, documents, _ = packed([[9], [20], [13]])
    plain, alone = (
        diffusion.pretraining_loss(
            model,
            tokens,
            documents > 0,
            documents_BL=packing,
            generator=torch.Generator().manual_seed(5),
        )
        for packing in (None, documents)
    )
    torch.testing.assert_close(plain, alone, rtol=1e-5, atol=1e-6)
