"""Who passes which rollouts when: the minibatches of an inner update, shared out among processes.

Shapes: B answers, R some of them, L length.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from model.estimators import View

Plan = list[Sequence[torch.Tensor]]
"""Minibatches, each an optimizer step, as micro-batches of row numbers."""


@dataclass(frozen=True)
class InnerUpdate:
    """A pass over the rollouts: its minibatches, its views, and the scores before it [B, L].

    A process has the scores of the rows that it passes, and zeros for the rest.
    """

    plan: Plan
    views: list[View]
    old_BL: torch.Tensor
    reference_BL: torch.Tensor


@dataclass(frozen=True)
class Turn:
    """A micro-batch of this process, while each of the other processes passes another."""

    rows_R: torch.Tensor
    beside: Sequence[torch.Tensor]
    """The micro-batches of all processes in this turn."""
    is_own: bool = True
    """False where none was left for this process: it repeats another's, and counts nothing."""
    is_last: bool = True
    """Whether the optimizer step follows, before which the processes exchange gradients."""


def minibatches(order_B: torch.Tensor, most: int, size: int) -> Plan:
    """The rows in their order, cut into nearly equal minibatches of at most `most`."""
    steps = order_B.tensor_split(math.ceil(len(order_B) / most))
    return [step.split(size) for step in steps]


def turns(minibatch: Sequence[torch.Tensor], rank: int, world: int) -> list[Turn]:
    """The turns of a process: the n-th micro-batch is passed by process n modulo `world`.

    All processes have the same number of turns, because their passes wait for each other.
    """
    groups = [minibatch[first : first + world] for first in range(0, len(minibatch), world)]
    return [
        Turn(
            rows_R=group[rank % len(group)],
            beside=group,
            is_own=rank < len(group),
            is_last=group is groups[-1],
        )
        for group in groups
    ]
