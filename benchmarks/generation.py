"""Tokens per second of our sampler: plain, prefix cache and dual cache, with the same passes.

256 tokens after a prompt of 256, block 32, 256 steps, four requests at once, random weights: a
small shape in fp32 on a CPU, the 8B shape in bf16 on a GPU. One request's pass over a block has
32 rows in every product, too few for a CPU to multiply at its speed (DECISIONS.md has its
figures); the plain sampler, whose products have 512 rows a request, gains nothing from company. A
round runs both cached ways over the whole answers and the plain way over one of their eight
blocks, which all cost the same: whole answers would take it half an hour. Speed against other
implementations is elsewhere.
"""

import functools
import itertools
from collections.abc import Iterator
from typing import Any

import torch

from benchmarks.measure import Row, seconds
from model import sampler
from model.config import LLaDAConfig
from model.llada import LLaDA

PROMPT, TOKENS, BLOCK = 256, 256, 32
REQUESTS = 4
BARS = {"prefix": 3.0, "dual": 8.0}
SMALL: dict[str, Any] = {
    "d_model": 512,
    "n_layers": 8,
    "n_heads": 8,
    "mlp_hidden_size": 1536,
    "vocab_size": 32768,
    "mask_token_id": 32767,
    "eos_token_id": 1,
    "pad_token_id": 1,
    "max_sequence_length": 1024,
}


def rows(device: str) -> list[Row]:
    """A row for each cache: its tokens/s against the plain sampler's."""
    model = _model(device)
    generator = torch.Generator().manual_seed(0)
    prompt_BP = torch.randint(2, 30000, (REQUESTS, PROMPT), generator=generator).to(device)

    def run(cache: str, passes: int) -> None:
        for _ in itertools.islice(_passes(model, prompt_BP, cache), passes):
            pass

    def warm_up() -> None:
        for cache in ("none", *BARS):
            run(cache, 2)

    plain, *cached = seconds(
        lambda: run("none", BLOCK),
        *(functools.partial(run, cache, TOKENS) for cache in BARS),
        warm_up=warm_up,
        device=device,
    )
    return [
        Row(
            work=f"generate {TOKENS} tokens for {REQUESTS} at once, {cache} cache, {_shape(model)}",
            against="our plain sampler, the same requests and passes",
            unit="tokens/s",
            theirs=REQUESTS * BLOCK / plain,
            ours=REQUESTS * TOKENS / taken,
            bar=bar,
            higher_is_better=True,
        )
        for (cache, bar), taken in zip(BARS.items(), cached, strict=True)
    ]


def _model(device: str) -> LLaDA:
    torch.manual_seed(0)
    if device == "cpu":
        return LLaDA(LLaDAConfig(**SMALL)).eval()
    with torch.device(device):
        torch.set_default_dtype(torch.bfloat16)
        try:
            return LLaDA(LLaDAConfig()).eval()
        finally:
            torch.set_default_dtype(torch.float32)


def _passes(model: LLaDA, prompt_BP: torch.Tensor, cache) -> Iterator[sampler.Generation]:
    return sampler.stream(
        model, prompt_BP, gen_length=TOKENS, block_length=BLOCK, steps=TOKENS, cache=cache
    )


def _shape(model: LLaDA) -> str:
    config, dtype = model.config, model.head_weight.dtype
    return f"d {config.d_model}, {config.n_layers} layers, {str(dtype).removeprefix('torch.')}"
