"""Continuous batching: rows that have ended leave the batch and waiting requests take their place.

At the border of a block nothing of a pass needs to be kept: the first pass of the next block
renews every key and value anyway. So the batch is put together anew there, of rows that may be at
different blocks: the active blocks stand in the same columns, what comes before them (prompt and
answer so far) ends at their left edge, and what is still to come is padded to the longest. A long
answer then holds up nobody, and a row gets what it gets alone, up to rounding.
Shapes: B rows of a batch, P prompt, G generated, M masked positions.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from model import sampler
from model.llada import LLaDA
from model.options import Cache
from model.window import Window


@dataclass(frozen=True)
class Request:
    """A prompt, and the canvas for its answer; `steps` as in `sampler.stream`."""

    prompt: Sequence[int]
    gen_length: int
    steps: int | None = None
    seed: int = 0
    """Seed of the row's own draws, at a temperature above 0."""


@dataclass(frozen=True)
class Answer:
    """The answer to request number `index`: [G] tokens, and the passes that it took."""

    index: int
    tokens: list[int]
    passes: int


@dataclass
class _Row:
    """A request on its way: its answer so far, in whole blocks."""

    index: int
    request: Request
    generator: torch.Generator
    answer: list[int] = field(default_factory=list)
    passes: int = 0
    is_cut: bool = False
    """Whether the answer ends before its canvas does, because the caller says so."""

    @property
    def left(self) -> int:
        return self.request.gen_length - len(self.answer)

    @property
    def has_ended(self) -> bool:
        return self.is_cut or not self.left

    @property
    def tokens(self) -> int:
        return len(self.request.prompt) + self.request.gen_length

    def budget(self, block_length: int) -> int:
        """The passes of the row's next block: the steps shared out evenly, the remainder first."""
        steps = self.request.steps or self.request.gen_length
        blocks = -(-self.request.gen_length // block_length)
        return steps // blocks + (len(self.answer) // block_length < steps % blocks)


@torch.inference_mode()
def generate_all(
    model: LLaDA,
    requests: Sequence[Request],
    *,
    block_length: int,
    batch_size: int,
    tokens_per_batch: int | None = None,
    cfg_scale: float = 0.0,
    cache: Cache = "none",
    is_complete: Callable[[int, list[int]], bool] | None = None,
    on_pass: Callable[[int], object] | None = None,
    **options: Any,
) -> Iterator[Answer]:
    """Yields each answer as soon as it has ended, in no fixed order.

    The options are those of `sampler.stream`, without its generator and attention mask. At most
    `batch_size` rows run at a time, and at most so many that rows times the longest row's tokens is
    within `tokens_per_batch`; one row at least. At the border of a block `is_complete` is asked
    with a request's number and its answer so far, which will not change: if it says yes, the answer
    ends there (for stop strings). `on_pass` is told before each pass how many rows it is for.
    Raises what `sampler.stream` raises, before the first pass.
    """
    for request in requests:
        sampler.check_request(
            model.config,
            torch.tensor([list(request.prompt)]),
            gen_length=request.gen_length,
            block_length=block_length,
            steps=request.steps,
            cfg_scale=cfg_scale,
            cache=cache,
            **options,
        )
    # The longest first: it decides the memory, and the short ones fill the gaps at the end.
    order = sorted(range(len(requests)), key=lambda index: -_size(requests[index]))
    waiting = deque(_row(index, requests[index], model.device) for index in order)
    running: list[_Row] = []
    while waiting or running:
        context = model.config.max_sequence_length
        while waiting and _fits([*running, waiting[0]], batch_size, tokens_per_batch, context):
            running.append(waiting.popleft())
        _advance(model, running, block_length, cfg_scale, cache, on_pass, options)
        for row in running:
            if row.left and is_complete:
                row.is_cut = is_complete(row.index, row.answer)
            if row.has_ended:
                yield Answer(row.index, row.answer, row.passes)
        running = [row for row in running if not row.has_ended]


def _row(index: int, request: Request, device: torch.device) -> _Row:
    return _Row(index, request, torch.Generator(device).manual_seed(request.seed))


def _size(request: Request) -> int:
    return len(request.prompt) + request.gen_length


def _fits(rows: list[_Row], batch_size: int, tokens_per_batch: int | None, context: int) -> bool:
    """Whether the rows may run together.

    Their window is as long as the longest beginning and the longest rest, which may be of two rows
    and then beyond the context. Later borders only shorten it: what is begun grows by the block by
    which the rest shrinks.
    """
    if len(rows) == 1:
        return True
    longest = max(row.tokens for row in rows)
    within = tokens_per_batch is None or len(rows) * longest <= tokens_per_batch
    begun = max(row.tokens - row.left for row in rows)
    window = begun + max(row.left for row in rows)
    return len(rows) <= batch_size and within and window <= context


def _advance(
    model: LLaDA,
    rows: list[_Row],
    block_length: int,
    cfg_scale: float,
    cache: Cache,
    on_pass: Callable[[int], object] | None,
    options: dict[str, Any],
) -> None:
    """Denoises the next block of every row; a row that meets a stop token becomes complete."""
    pad = model.config.pad_token_id
    prompts = [[*row.request.prompt, *row.answer] for row in rows]
    prompt_BP, seen_BP = pad_left(prompts, pad, model.device)
    left_B = torch.tensor([row.left for row in rows], device=model.device)
    answered_B = torch.tensor([len(row.answer) for row in rows], device=model.device)
    canvas = int(left_B.max())
    window = Window(
        model,
        prompt_BP,
        canvas,
        seen_BP,
        cfg_scale,
        cache,
        lengths_B=left_B,
        answered_B=answered_B,
    )
    window.open(0, min(block_length, canvas))
    budget_B = torch.tensor([row.budget(block_length) for row in rows], device=model.device)
    turn = 0
    while window.has_masks:
        numbers = window.rows_B.tolist()
        if on_pass:
            on_pass(len(numbers))
        for number, has_masks in zip(numbers, window.masked_BM.any(1).tolist(), strict=True):
            rows[number].passes += has_masks
        sampler.denoise(
            window,
            (budget_B[window.rows_B] - turn).clamp(min=1),
            generator=[rows[number].generator for number in numbers],
            **{**sampler.DEFAULTS, **options},
        )
        turn += 1
    ended = set(range(len(rows))) - set(window.rows_B.tolist())
    for number, (row, answer) in enumerate(
        zip(rows, window.result_BL[:, prompt_BP.shape[1] :].tolist(), strict=True)
    ):
        row.answer += answer[: row.left if number in ended else min(block_length, row.left)]


def pad_left(
    prompts: Sequence[Sequence[int]], pad: int, device: torch.device | str = "cpu"
) -> tuple[torch.Tensor, torch.Tensor]:
    """Prompts as one batch: (tokens_BP int64, seen_BP bool, False at the padding).

    The padding is on the left, so that every answer starts right behind its prompt.
    """
    longest = max(map(len, prompts))
    rows = [[pad] * (longest - len(prompt)) + [*prompt] for prompt in prompts]
    lengths_B = torch.tensor([len(prompt) for prompt in prompts], device=device)
    seen_BP = torch.arange(longest, device=device) >= longest - lengths_B[:, None]
    return torch.tensor(rows, device=device), seen_BP
