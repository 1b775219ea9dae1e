"""What a training loop is given: examples, a loss, and where records and checkpoints go."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from model.training.draws import Draw


@dataclass(frozen=True)
class Batch:
    """Tensors of one micro-batch, how many tokens it holds, and its part of the step's loss."""

    tensors: dict[str, torch.Tensor]
    tokens: int
    share: float | None = None
    """What its loss counts in the step's; the shares of a step add up to 1. None: by examples."""


@dataclass(frozen=True)
class Feed:
    """How many examples there are, and how some places of a step become a micro-batch."""

    count: int
    collate: Callable[[Draw], Batch]


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
