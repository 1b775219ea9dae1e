"""The figures of a training step, from its micro-batches to its record.

A loss returns tensors by name. A scalar is a mean over the micro-batch, and counts by the
micro-batch's share of the step. A table [2, N] holds sums and counts by N equal buckets of [0, 1],
and both add up as they are; its record is the mean of each bucket.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator

Figures = dict[str, torch.Tensor]
"""Scalars, of which "loss" is trained, and tables, by name."""


class Part(NamedTuple):
    """What a micro-batch adds to its step: figures (fp64, on the CPU) and tokens."""

    figures: Figures
    tokens: int


def weigh(figures: Figures, share: float) -> Figures:
    """The figures of a micro-batch as they add up in its step."""
    return {name: value if value.ndim else value * share for name, value in figures.items()}


def gather(figures: Figures, tokens: int, accelerator: Accelerator) -> list[Part]:
    """The parts of the micro-batches that the processes have just computed, by rank."""
    row = torch.cat([value.detach().double().flatten() for value in figures.values()])
    if accelerator.num_processes == 1:
        return [Part(_unflatten(row.cpu(), figures), tokens)]
    rows = accelerator.gather(torch.cat((row, row.new_tensor([tokens])))[None]).cpu()
    return [Part(_unflatten(row[:-1], figures), int(row[-1])) for row in rows]


def add(parts: Sequence[Part]) -> Part:
    """The sum of a step's parts, one after the other: the order decides the last bits."""
    names = parts[0].figures
    figures = {name: torch.as_tensor(sum(part.figures[name] for part in parts)) for name in names}
    return Part(figures, sum(part.tokens for part in parts))


def record(figures: Figures) -> dict[str, Any]:
    """The figures as a line of the log holds them: numbers, and tables as means by bucket."""
    return {name: _means(value) if value.ndim else value.item() for name, value in figures.items()}


def _means(table: torch.Tensor) -> dict[str, float]:
    """The mean of each bucket that counts anything, by the bucket's lower end."""
    columns = enumerate(zip(*table.tolist(), strict=True))
    buckets = table.shape[1]
    return {f"{n / buckets:.1f}": total / count for n, (total, count) in columns if count}


def _unflatten(row: torch.Tensor, figures: Figures) -> Figures:
    """The numbers of a row under the names and in the shapes of `figures`."""
    sizes = [value.numel() for value in figures.values()]
    pieces = zip(figures.items(), row.split(sizes), strict=True)
    return {name: piece.view(value.shape) for (name, value), piece in pieces}
