"""Which examples and which noise belong to a step: functions of (seed, step, place in the batch).

There is no state: a resumed run draws the same numbers as an uninterrupted one, and so do any
number of processes and micro-batches of any size.
Shapes: B rows, L length.
"""

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from model.training.config import Training

ODD = 0x9E3779B1  # 2^32 / golden ratio: an odd factor is a permutation of the 32-bit numbers
NOISE, DROPOUT, VALIDATION = "noise", "dropout", "validation"


@dataclass(frozen=True, kw_only=True)
class Draw:
    """Some places of a step's batch: the examples that stand there, and their noise.

    Each row has a generator of its own on the CPU, where a longer draw only appends to a shorter
    one. So the noise of a token depends neither on padding, nor on the micro-batch, nor on the
    device.
    """

    purpose: str
    seed: int
    step: int
    examples: Sequence[int]
    """Numbers of the examples of the whole batch, by place."""
    places: Sequence[int]
    """The places of this micro-batch."""
    progress: float = 1.0
    """Fraction of training that is done, 0 to 1."""

    @property
    def micro_batch(self) -> list[int]:
        """Numbers of the examples of this micro-batch."""
        return [self.examples[place] for place in self.places]

    @property
    def share(self) -> float:
        """This micro-batch's share of the batch, by examples."""
        return len(self.places) / len(self.examples)

    def key(self, purpose: str) -> int:
        """A seed that no other micro-batch of the same size has."""
        return key(purpose, self.seed, self.step * len(self.examples) + self.places[0])

    def of(self, purpose: str) -> "Draw":
        """The same places with other noise."""
        return replace(self, purpose=f"{self.purpose} {purpose}")

    def twice(self) -> "Draw":
        """Two rows for each place, the second rows after all first ones, with their own noise."""
        later = [place + len(self.examples) for place in self.places]
        examples = [*self.examples, *self.examples]
        return replace(self, examples=examples, places=[*self.places, *later])

    def batch(self, *shape: int) -> torch.Tensor:
        """Uniform numbers in [0, 1) that belong to the whole batch of the step."""
        return self._uniform("batch", self.step, *shape)

    def timesteps(self) -> torch.Tensor:
        """t_B = (u + place / batch) mod 1 with one u ~ U(0, 1) for the step: stratified over it."""
        places_B = torch.tensor(self.places, dtype=torch.float64)
        offset = self._uniform("timesteps", self.step, 1).double()
        return ((offset + places_B / len(self.examples)) % 1).float()

    def uniform(self, length: int, number: int = 0) -> torch.Tensor:
        """Uniform numbers [B, L] of the rows, the `number`-th set of them."""
        first = self.step * len(self.examples)
        rows = [self._uniform(f"rows {number}", first + place, length) for place in self.places]
        return torch.stack(rows)

    def _uniform(self, name: str, number: int, *shape: int) -> torch.Tensor:
        seed = key(f"{self.purpose} {name}", self.seed, number)
        return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def validation(held: Sequence[int], settings: Training) -> list[Draw]:
    """The micro-batches of the held-out examples, batch by batch; the noise is always the same."""
    size, micro = settings.batch_size, settings.micro_batch_size
    batches = [held[first : first + size] for first in range(0, len(held), size)]
    return [
        Draw(
            purpose=VALIDATION,
            seed=settings.seed,
            step=number,
            examples=batch,
            places=range(len(batch))[first : first + micro],
        )
        for number, batch in enumerate(batches)
        for first in range(0, len(batch), micro)
    ]


Random = torch.Generator | Draw | None
"""A source of noise: the places of a step, or a generator that goes on from call to call."""


def timesteps(random: Random, rows: int, device: torch.device | str = "cpu") -> torch.Tensor:
    """t_B in [0, 1), each uniform, stratified over the batch (arXiv:2107.00630, appendix I.1)."""
    if isinstance(random, Draw):
        return random.timesteps().to(device)
    offset = torch.rand((), generator=random, device=device)
    return (offset + torch.arange(rows, device=device) / rows) % 1


def uniform(random: Random, like_BL: torch.Tensor, number: int = 0) -> torch.Tensor:
    """Uniform numbers in the shape [B, L] and on the device of a tensor, the `number`-th for it."""
    if isinstance(random, Draw):
        return random.uniform(like_BL.shape[1], number).to(like_BL.device)
    return torch.rand(like_BL.shape, generator=random, device=like_BL.device)


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
    """Seeds the generators of dropout alone: `torch.manual_seed` seeds all, which takes 0.3 ms."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)


def key(purpose: str, seed: int, number: int) -> int:
    """A 32-bit seed for the `number`-th draw of a purpose; no two numbers below 2^32 share one.

    The CPU's generator takes 32 bits of its seed, in which random keys would soon collide.
    """
    return (number * ODD + _offset(purpose, seed)) % 2**32


@functools.lru_cache(maxsize=256)
def _offset(purpose: str, seed: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{purpose} {seed}".encode()).digest()[:4], "big")
