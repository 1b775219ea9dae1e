"""Tokens per second of our sampler: plain, prefix cache and dual cache, with the same passes.

256 tokens after a prompt of 256, block 32, 256 steps, several requests at once, random weights: a
small shape in fp32 on a CPU, the 8B shape in bf16 on a GPU.

With the dual cache, a request's pass over a block has 32 rows in every product. A CPU multiplies so
few rows below its full speed, so the dual cache gains more the more requests run together. The
plain sampler's products have 512 rows per request and gain nothing. The dual cache's bar applies to
16 requests, as many as an evaluation or a group of rollouts has, and the prefix cache's to 4. Fewer
requests are shown beside them without a bar.

The uncached baseline runs 8 passes instead of 256: they all cost the same, and a full answer takes
20 minutes. These passes fill one block and are spread over the cached answer, because a machine's
speed drifts within the minutes that the answer takes.
"""

import itertools
import statistics
from collections.abc import Iterator

import torch

from benchmarks import cost
from benchmarks.measure import REPEATS, Row, timed
from benchmarks.network import network
from model import sampler
from model.llada import LLaDA
from model.options import Cache

PROMPT, TOKENS, BLOCK = 256, 256, 32
PLAIN = 8  # passes of the plain sampler that are measured
WAYS: tuple[tuple[Cache, int, float | None], ...] = (
    ("prefix", 1, None),
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


def _row(model: LLaDA, cache: Cache, requests: int, bar: float | None, device: str) -> Row:
    generator = torch.Generator().manual_seed(0)
    prompt_BP = torch.randint(2, 30000, (requests, PROMPT), generator=generator).to(device)

    def stream(way: Cache, steps: int = TOKENS) -> Iterator[sampler.Generation]:
        return sampler.stream(
            model, prompt_BP, gen_length=TOKENS, block_length=BLOCK, steps=steps, cache=way
        )

    def one_round() -> tuple[float, float]:
        """Seconds of a pass, plain and cached: after every 32 cached passes a plain one."""
        plain, cached = stream("none", PLAIN * TOKENS // BLOCK), stream(cache)
        plain_seconds = cached_seconds = 0.0
        for turn in range(TOKENS):
            cached_seconds += timed(lambda: next(cached), device)
            if turn % (TOKENS // PLAIN) == 0:
                plain_seconds += timed(lambda: next(plain), device)
        return plain_seconds / PLAIN, cached_seconds / TOKENS

    for way in ("none", cache):  # a warm-up
        for _ in itertools.islice(stream(way), 2):
            pass
    rounds = zip(*(one_round() for _ in range(REPEATS)), strict=True)
    plain, cached = map(statistics.median, rounds)
    use = None
    if device != "cpu":
        baseline, ours = (cost.passes(model, requests, pass_shapes(w)) for w in ("none", cache))
        use = baseline.use(plain, device), ours.use(cached, device)
    return Row(
        work=f"generate {TOKENS} tokens for {requests} at once, {cache} cache, {_shape(model)}",
        against="our plain sampler, the same requests and passes",
        unit="tokens/s",
        baseline=requests / plain,
        ours=requests / cached,
        bar=bar,
        higher_is_better=True,
        use=use,
    )


def pass_shapes(cache: str) -> list[tuple[int, int, float]]:
    """Positions of each of an answer's passes, of its window, and masks in its block."""
    window = PROMPT + TOKENS
    found: list[tuple[int, int, float]] = []
    for turn in range(TOKENS):
        start = PROMPT + turn // BLOCK * BLOCK
        block_pass = {"none": window, "prefix": window - start, "dual": BLOCK}[cache]
        is_first = turn % BLOCK == 0
        found.append((window if is_first else block_pass, window, BLOCK - turn % BLOCK))
    return found


def _shape(model: LLaDA) -> str:
    config, dtype = model.config, model.head_weight.dtype
    return f"d {config.d_model}, {config.n_layers} layers, {str(dtype).removeprefix('torch.')}"
