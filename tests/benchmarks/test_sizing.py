"""The sizing formula against the tensors that small models really hold in training."""

import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.sizing import tables
from model import cross_entropy, diffusion, lora
from model.config import LLaDAConfig
from model.llada import LLaDA
from model.training import optimizer
from model.training.config import Optimization
from model.training.sizing import Run, Shape, adapter_parameters, memory
from tests.conftest import ROOT

TARGETS = ("q_proj", "k_proj", "v_proj", "attn_out")
SETTINGS = Optimization(steps=9, batch_size=2, micro_batch_size=1, learning_rate=1e-4)


class Held(TorchDispatchMode):
    """Bytes of all tensors that are alive, and the most there ever were."""

    def __init__(self, tensors):
        super().__init__()
        self.alive, self.now, self.peak = set(), 0, 0
        for tensor in tensors:
            self.add(tensor)

    def __torch_dispatch__(self, function, types, given=(), options=None):
        result = function(*given, **(options or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self.add(leaf)
        return result

    def add(self, tensor):
        storage = tensor.untyped_storage()
        if storage._cdata not in self.alive:
            self.alive.add(storage._cdata)
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self.drop, storage._cdata, storage.nbytes())

    def drop(self, name, size):
        self.alive.remove(name)
        self.now -= size


def measured(shape, run):
    """Peak bytes of two steps of two accumulated micro-batches, in fp32 on the CPU."""
    config = LLaDAConfig(
        d_model=shape.width,
        n_layers=shape.layers,
        n_heads=shape.heads,
        n_kv_heads=shape.heads * shape.kv_width // shape.width,
        mlp_hidden_size=shape.hidden,
        vocab_size=shape.vocabulary,
        embedding_size=shape.vocabulary,
        max_sequence_length=run.length,
        mask_token_id=1,
        weight_tying=False,
    )
    model = LLaDA(config).train()
    model.checkpoint_activations = run.checkpointing
    if run.rank is not None:
        lora.attach(model, rank=run.rank, alpha=run.rank, dropout=0.0, targets=run.targets)
    adamw, _ = optimizer.optimizer_for(model, SETTINGS)
    tokens = torch.randint(2, shape.vocabulary, (run.sequences, run.length))
    real = torch.ones_like(tokens, dtype=torch.bool)
    seed = torch.Generator()
    with Held([*model.parameters(), tokens, real]) as held:
        for _ in range(2):
            for _ in range(2):
                loss = diffusion.pretraining_loss(
                    model, tokens, real, generator=seed.manual_seed(3)
                )
                loss.backward()
                del loss
            adamw.step()
            adamw.zero_grad()
    return held.peak


@pytest.mark.parametrize("rank", [None, 8])
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(
    ("shape", "length", "sequences"),
    [
        (Shape(width=64, kv_width=64, hidden=192, layers=8, heads=2, vocabulary=320), 128, 4),
        (Shape(width=128, kv_width=64, hidden=256, layers=6, heads=4, vocabulary=512), 64, 8),
        (Shape(width=96, kv_width=96, hidden=288, layers=12, heads=1, vocabulary=400), 256, 1),
    ],
)
def test_formula(shape, length, sequences, rank, checkpointing):
    run = Run(
        length=length,
        sequences=sequences,
        rank=rank,
        targets=TARGETS,
        checkpointing=checkpointing,
        bf16=False,
        flash=False,
        slice_bytes=cross_entropy.SLICE_BYTES["cpu"],
    )
    found = measured(shape, run)
    expected = memory(shape, run)
    assert sum(expected.values()) == pytest.approx(found, rel=0.15)


def test_the_page_holds_the_tables():
    page = (ROOT / "docs" / "sizing.md").read_text()
    assert tables() in page, f"the table should be\n{tables()}"


def test_parameters_of_the_8b_model():
    assert Shape().parameters == 8_015_581_184
    assert adapter_parameters(Shape(), Run(length=1)) == 134_217_728
