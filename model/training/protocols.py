"""The arguments of a training loop: examples, a loss, and where its records and states go."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from model.training.draws import Draw
from model.training.figures import Figures


@dataclass(frozen=True)
class Batch:
    """Tensors of one micro-batch, how many tokens it holds, and its part of the step's loss."""

    tensors: dict[str, torch.Tensor]
    tokens: int
    share: float | None = None
    """Weight of its loss in the step's; the shares of a step add up to 1. None: by examples."""


@dataclass(frozen=True)
class Feed:
    """How many examples there are, and how some places of a step become a micro-batch."""

    count: int
    collate: Callable[[Draw], Batch]


@dataclass(frozen=True)
class Snapshot:
    """A saved state of a run: the loop's own facts, and its tensors by name."""

    facts: dict[str, Any]
    tensors: Mapping[str, torch.Tensor]


class StateStore(Protocol):
    """Where snapshots are kept. Every process has one, the first process writes."""

    def is_due(self, step: int) -> bool:
        """Whether to save after this step."""

    def save(
        self, step: int, tensors: Iterator[tuple[str, torch.Tensor]], facts: dict[str, Any]
    ) -> None:
        """Begins to save a state, unless it cannot; every process must exhaust `tensors`."""

    def settle(self) -> int:
        """Waits until no state is on its way; the step of the newest that is saved, or 0."""


Loss = Callable[[dict[str, torch.Tensor], Draw], Figures]
"""The figures of a micro-batch, from its tensors and its draw; "loss" is trained."""
Log = Callable[[dict[str, Any]], None]
"""Takes the record of a step."""
