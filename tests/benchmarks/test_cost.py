"""The benchmarks' count of model FLOPs and bytes against what a pass really does."""

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import cost, generation
from model.config import LLaDAConfig
from model.llada import LLaDA

CONFIG = LLaDAConfig(
    d_model=64,
    n_heads=4,
    n_kv_heads=2,
    n_layers=2,
    mlp_hidden_size=96,
    vocab_size=320,
    mask_token_id=319,
    eos_token_id=1,
    pad_token_id=1,
)


def test_flops_and_bytes_of_a_pass():
    model = LLaDA(CONFIG).eval()
    tokens = torch.zeros(3, 20, dtype=torch.long)
    with FlopCounterMode(display=False) as counter:  # with gradient: attention as products
        model.head(model.hidden(tokens)[:, :5])
    found = cost.passes(model, 3, [(20, 20, 5)])
    assert found.flops == counter.get_total_flops()
    matrices = [weight for weight in model.parameters() if weight.ndim > 1]
    read = sum(weight.nbytes for weight in matrices) - model.get_input_embeddings().weight.nbytes
    assert found.bytes == read + 3 * 20 * 2 * 2 * 32 * 4


def test_positions_of_the_passes():
    window = generation.PROMPT + generation.TOKENS
    dual = generation.pass_shapes("dual")
    prefix = generation.pass_shapes("prefix")
    assert dual[0] == prefix[0] == (window, window, 32)
    assert dual[33] == (32, window, 31)
    assert prefix[33] == (224, window, 31)
    assert {queries for queries, _, _ in generation.pass_shapes("none")} == {window}
