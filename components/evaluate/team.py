"""The processes of an evaluation: the first asks and judges, all of them compute.

    torchrun --nproc-per-node N -m components.evaluate ...

The first process hands the same list of requests to all, each takes its share, and the first
collects the values. What a request gets does not depend on the process that computes it. Objects
travel over gloo, on the CPU, on any machine.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import distributed

from components.evaluate.requests import Query

PATIENCE = timedelta(days=7)
"""The other processes wait while the first judges answers or loads a task."""


@dataclass(frozen=True)
class Team:
    """This process among `size`; alone by default."""

    rank: int = 0
    size: int = 1

    @property
    def device(self) -> str:
        """The device of this process: a GPU of its own where the machine has any."""
        if not torch.cuda.is_available():
            return "cpu"
        return f"cuda:{int(os.environ.get('LOCAL_RANK', '0')) % torch.cuda.device_count()}"

    def announce(self, queries: Sequence[Query] | None) -> list[Query] | None:
        """What the first process announces, in every process; None ends the work."""
        if self.size == 1:
            return None if queries is None else list(queries)
        box = [queries]
        distributed.broadcast_object_list(box)
        return None if box[0] is None else list(box[0])

    def collect(self, values: dict[str, Any]) -> dict[str, Any]:
        """The values of all processes, in the first one; empty in the others."""
        if self.size == 1:
            return values
        boxes: list[Any] | None = [None] * self.size if self.rank == 0 else None
        distributed.gather_object(values, boxes)
        return {key: value for box in boxes or [] for key, value in box.items()}

    def share(self, queries: Sequence[Query]) -> list[Query]:
        """This process's part: about the same number of tokens for each.

        Requests with the same prompt stay together, because they share sequences.
        """
        by_prompt: dict[tuple[int, ...], list[Query]] = {}
        for query in queries:
            by_prompt.setdefault(query.prompt, []).append(query)
        loads = [0] * self.size
        shares: list[list[Query]] = [[] for _ in range(self.size)]
        for group in sorted(by_prompt.values(), key=lambda group: -_work(group)):
            rank = loads.index(min(loads))
            loads[rank] += _work(group)
            shares[rank] += group
        return shares[self.rank]

    def leave(self) -> None:
        """Ends the connection between the processes."""
        if self.size > 1:
            distributed.destroy_process_group()


def join() -> Team:
    """The team that torchrun has started, or this process alone."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return Team()
    if not distributed.is_initialized():
        distributed.init_process_group("gloo", timeout=PATIENCE)
    return Team(int(os.environ["RANK"]), size)


def _work(queries: Sequence[Query]) -> int:
    return sum(query.size for query in queries)
