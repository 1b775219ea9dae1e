"""A training step of a rank-128 adapter on LLaDA-8B against the formula of docs/sizing.md.

One sequence, forward, backward and AdamW, activations checkpointed; for a GPU alone, where the
formula assumes a share of the peak FLOPs that this measures. The formula's memory is what tensors
hold; that of the small models of a CPU is in the tests.
"""

import torch

from benchmarks import measure
from benchmarks.cost import Cost
from benchmarks.measure import Row
from benchmarks.network import network
from benchmarks.sizing import GIB
from model import diffusion, lora
from model.config import LLaDAConfig
from model.llada import LLaDA
from model.training import sizing, throughput

LENGTHS = (4096, 8192)
FULL = LLaDAConfig(max_sequence_length=max(LENGTHS))


def rows(device: str) -> list[Row]:
    """GiB at the peak and tokens/s of each length."""
    run = sizing.Run(length=max(LENGTHS))
    model = network(device, FULL, FULL).train()
    assert run.rank is not None
    lora.attach(model, rank=run.rank, alpha=2 * run.rank, dropout=0.0, targets=run.targets)
    model.checkpoint_activations = True
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5, fused=True)
    return [row for length in LENGTHS for row in _rows(model, optimizer, length, device)]


def _rows(model: LLaDA, optimizer: torch.optim.Optimizer, length: int, device: str) -> list[Row]:
    tokens_1L = torch.randint(0, 126000, (1, length), device=device)
    document_1L = torch.ones_like(tokens_1L)  # as pretraining: packed, here one document

    def step() -> None:
        draw = torch.Generator(device).manual_seed(0)
        with torch.autocast(torch.device(device).type, torch.bfloat16):
            loss = diffusion.pretraining_loss(
                model, tokens_1L, document_1L > 0, documents_BL=document_1L, generator=draw
            )
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)

    step()
    held = torch.cuda.memory_allocated(device)
    peak = held + measure.extra_bytes(step, device)
    (spent,) = measure.seconds(step, device=device)
    shape, run = sizing.Shape(), sizing.Run(length=length)
    peak_flops = throughput.peak_flops(model.device) or throughput.PEAKS["H100"]
    expected = length * sizing.seconds_per_token(shape, run, peak_flops)
    embedding = model.head_weight.numel() * model.head_weight.itemsize  # as large as the head
    weights = sum(weight.numel() * weight.itemsize for weight in model.parameters()) - embedding
    # Every weight is read forward, when a block is redone, and backward.
    cost = Cost(throughput.flops_per_token(model, length) * length, 3 * weights)
    work, against = f"LoRA 128 on LLaDA-8B, one sequence of {length} tokens", "docs/sizing.md"
    return [
        Row(
            work=f"{work}, peak memory",
            against=against,
            unit="GiB",
            baseline=sum(sizing.memory(shape, run).values()) / GIB,
            ours=peak / GIB,
            bar=None,
        ),
        Row(
            work=work,
            against=against,
            unit="tokens/s",
            baseline=length / expected,
            ours=length / spent,
            bar=None,
            higher_is_better=True,
            use=(cost.use(expected, device), cost.use(spent, device)),
        ),
    ]
