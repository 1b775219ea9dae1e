"""Which models' passes may be recorded; the recordings themselves are in tests/gpu."""

import gc

import pytest

from model import cuda_graph, lora
from model.config import LLaDAConfig
from model.llada import LLaDA

CONFIG = LLaDAConfig(
    d_model=32,
    n_heads=2,
    n_layers=1,
    mlp_hidden_size=48,
    vocab_size=64,
    embedding_size=64,
    mask_token_id=63,
    eos_token_id=1,
    pad_token_id=1,
)
ADAPTER = dict(rank=2, alpha=4, dropout=0.0, targets=("q_proj",))


def test_a_model_is_plain_and_lies_on_no_gpu():
    model = LLaDA(CONFIG)
    assert cuda_graph.is_plain(model)
    assert not cuda_graph.can_record(model)


@pytest.mark.parametrize(
    ("changes", "is_plain"), [({}, True), ({"dora": True}, True), ({"new_tokens": [5]}, False)]
)
def test_adapters(changes, is_plain):
    model = LLaDA(CONFIG)
    lora.attach(model, **ADAPTER, **changes)
    assert cuda_graph.is_plain(model) == is_plain


@pytest.mark.parametrize("was_on", [True, False])
def test_the_collector_is_held_back_and_let_go(was_on):
    """Within a recording, also within one that fails; afterwards it is as it was."""
    before = gc.isenabled()
    try:
        gc.enable() if was_on else gc.disable()
        with pytest.raises(ZeroDivisionError), cuda_graph._no_collection():
            assert not gc.isenabled()
            1 / 0  # noqa: B018
        assert gc.isenabled() == was_on
    finally:
        gc.enable() if before else gc.disable()
