"""What the processes of a training run do together: decide, take turns, put shares together.

Every process must call each of these functions, in the same order. A process that is alone decides
for itself.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import gather_object
from torch import nn
from torch.distributed.fsdp import FSDPModule

T = TypeVar("T")


class Passes(nn.Module):
    """A model as the module that processes share: what runs in its forward may use the weights."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, run: Callable[[], T]) -> T:
        """The result of `run`, whose gradients are those of all processes."""
        return run()


def in_any_process(accelerator: Accelerator, flag: bool) -> bool:
    """Whether the flag is set in any of the processes."""
    if accelerator.num_processes == 1:
        return flag
    flags = torch.tensor([float(flag)], device=accelerator.device)
    return bool(accelerator.reduce(flags).item())


def own_share(count: int) -> slice:
    """This process's part of `count` things, which the number of processes divides."""
    processes = PartialState()
    size = count // processes.num_processes
    return slice(processes.process_index * size, (processes.process_index + 1) * size)


def in_turn(own: list[T], count: int) -> list[T]:
    """The `count` things of which the processes hold each n-th, in their order."""
    by_process = gather_object([own])
    world = len(by_process)
    return [by_process[number % world][number // world] for number in range(count)]


def reshard(module: nn.Module) -> None:
    """Leaves a process its share of a sharded module's weights alone.

    After a pass without gradients the root's weights are whole, and no optimizer knows those.
    """
    for part in _shards(module):
        part.reshard()


def _shards(module: nn.Module) -> list[FSDPModule]:
    return [part for part in module.modules() if isinstance(part, FSDPModule)]


@contextlib.contextmanager
def whole(module: nn.Module) -> Iterator[None]:
    """Within the block every process holds all of a sharded module's weights.

    Processes may then make unequal numbers of passes, because no pass waits for another process.
    """
    shards = _shards(module)
    for part in shards:
        part.unshard()
        part.set_reshard_after_forward(False, recurse=False)
    try:
        yield
    finally:
        for part in shards:
            # The root's weights stay after a forward: the backward pass needs them first.
            part.set_reshard_after_forward(part is not module, recurse=False)
            part.reshard()
