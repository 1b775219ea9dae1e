"""Tokens per second of our sampler: plain, prefix cache and dual cache, with the same passes.

256 tokens after a prompt of 256, block 32, 256 steps, several requests at once, random weights: a
small shape in fp32 on a CPU, the 8B shape in bf16 on a GPU. A request's pass over a block has 32
rows in every product, too few for a CPU to multiply at its speed, so what the dual cache gains
grows with the requests; the plain sampler, whose products have 512 rows a request, gains nothing
from company. The dual cache's bar is held to at 16 requests, what an evaluation or a group of
rollouts gives it; what it gains with fewer is shown beside it and is below that bar. The cached
ways make whole answers. Of the plain way, whose passes cost the same, a round makes eight, in which
one block fills up: whole answers would take it twenty minutes. Speed against other implementations
is elsewhere.
"""

import itertools

import torch

from benchmarks.measure import Row, seconds
from benchmarks.network import network
from model import sampler
from model.llada import LLaDA

PROMPT, TOKENS, BLOCK = 256, 256, 32
PLAIN = 8  # passes of the plain sampler that are measured
WAYS: tuple[tuple[sampler.Cache, int, float | None], ...] = (
    ("prefix", 4, 3.0),
    ("dual", 1, None),
    ("dual", 4, None),
    ("dual", 16, 8.0),
)
"""Cache, requests at once, bar."""


def rows(device: str) -> list[Row]:
    """Tokens/s of each way with a cache against the plain sampler's."""
    model = network(device)
    return [_row(model, *way, device) for way in WAYS]


def _row(model: LLaDA, cache: sampler.Cache, requests: int, bar: float | None, device: str) -> Row:
    generator = torch.Generator().manual_seed(0)
    prompt_BP = torch.randint(2, 30000, (requests, PROMPT), generator=generator).to(device)

    def run(way: sampler.Cache, passes: int, steps: int = TOKENS) -> None:
        made = sampler.stream(
            model, prompt_BP, gen_length=TOKENS, block_length=BLOCK, steps=steps, cache=way
        )
        for _ in itertools.islice(made, passes):
            pass

    def warm_up() -> None:
        for way in ("none", cache):
            run(way, 2)

    plain, cached = seconds(
        lambda: run("none", PLAIN, PLAIN * TOKENS // BLOCK),
        lambda: run(cache, TOKENS),
        warm_up=warm_up,
        device=device,
    )
    return Row(
        work=f"generate {TOKENS} tokens for {requests} at once, {cache} cache, {_shape(model)}",
        against="our plain sampler, the same requests and passes",
        unit="tokens/s",
        theirs=requests * PLAIN / plain,
        ours=requests * TOKENS / cached,
        bar=bar,
        higher_is_better=True,
    )


def _shape(model: LLaDA) -> str:
    config, dtype = model.config, model.head_weight.dtype
    return f"d {config.d_model}, {config.n_layers} layers, {str(dtype).removeprefix('torch.')}"
