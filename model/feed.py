"""What a training loop is given: examples, a loss, and where records and checkpoints go."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from model.draws import Draw


@dataclass(frozen=True)
class Batch:
    """Tensors of one micro-batch, and how many tokens it holds."""

    tensors: dict[str, torch.Tensor]
    tokens: int


@dataclass(frozen=True)
class Feed:
    """The examples by number, and how a few of them become a micro-batch."""

    count: int
    collate: Callable[[list[int]], Batch]


@dataclass(frozen=True)
class Snapshot:
    """A saved state: what the loop said of itself, and its tensors."""

    facts: dict[str, Any]
    tensors: Mapping[str, torch.Tensor]


class Checkpoints(Protocol):
    """Where states are kept; in each process, of which the first writes."""

    def is_due(self, step: int) -> bool:
        """Whether to save after this step."""

    def save(
        self, step: int, tensors: Iterator[tuple[str, torch.Tensor]], facts: dict[str, Any]
    ) -> None:
        """Saves a state; every process must exhaust `tensors`."""


Figures = dict[str, torch.Tensor]
Loss = Callable[[dict[str, torch.Tensor], Draw], torch.Tensor | Figures]
Log = Callable[[dict[str, Any]], None]
