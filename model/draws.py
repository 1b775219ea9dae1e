"""Which examples and which noise belong to a step: functions of (seed, step, place in the batch).

Nothing of it is state, so that a resumed run draws what an uninterrupted one does, and so do any
number of processes. What is done with the draws is the loss's.
"""

import functools
import hashlib
from dataclasses import dataclass

import torch

ODD = 0x9E3779B1  # 2^32 / golden ratio: an odd factor is a permutation of the 32-bit numbers
NOISE, DROPOUT, VALIDATION = "noise", "dropout", "validation"


@dataclass(frozen=True)
class Draw:
    """What a loss draws from: the noise of this micro-batch, and how far training is, 0 to 1."""

    generator: torch.Generator
    progress: float


class Order:
    """Endless epochs over `count` examples, each a permutation of its own."""

    def __init__(self, count: int, batch_size: int, seed: int) -> None:
        self.count, self.batch_size, self.seed = count, batch_size, seed
        self._epoch = functools.lru_cache(maxsize=2)(self._permutation)

    def batch(self, step: int) -> list[int]:
        """The examples of a step, counted from 0; a batch may run over into the next epoch."""
        first = step * self.batch_size
        places = (divmod(place, self.count) for place in range(first, first + self.batch_size))
        return [self._epoch(epoch)[place] for epoch, place in places]

    def _permutation(self, epoch: int) -> list[int]:
        generator = torch.Generator().manual_seed(key("order", self.seed, epoch))
        return torch.randperm(self.count, generator=generator).tolist()


def seed_dropout(seed: int, device: torch.device) -> None:
    """Seeds the generators that dropout draws from; `torch.manual_seed` takes 0.3 ms for it."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)


def key(purpose: str, seed: int, number: int) -> int:
    """A 32-bit seed for the `number`-th draw of a purpose; no two numbers below 2^32 share one.

    The CPU's generator takes 32 bits of its seed, in which random keys would soon collide.
    """
    return (number * ODD + _offset(purpose, seed)) % 2**32


@functools.lru_cache(maxsize=64)
def _offset(purpose: str, seed: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{purpose} {seed}".encode()).digest()[:4], "big")
