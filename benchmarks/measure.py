"""Shared by all benchmarks: interleaved timing, peak memory, and the rows of the table.

Two ways of doing the same work run in turn in one process, so that a noisy machine slows both.
"""

import ctypes
import gc
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch

REPEATS = 5


class Use(NamedTuple):
    """How a way of working uses the device; 1 is all of it."""

    flops: float
    """Model FLOP utilisation."""
    bandwidth: float
    """The time in which the memory could move what must be moved, as a share of the time spent."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table: the figures of a baseline and of our code, and the ratio to reach."""

    work: str
    """The work, in a few words."""
    against: str
    """The baseline: our plain code, a formula, or a library by its name."""
    unit: str
    """Unit of both figures."""
    baseline: float
    """The baseline's figure, a median."""
    ours: float
    """Our figure, a median."""
    bar: float | None
    """The smallest ratio that is good enough; None for a figure that is only shown."""
    higher_is_better: bool = False
    """Whether the figures are speeds; times and sizes are better when low."""
    use: tuple[Use, Use] | None = None
    """How the baseline and our code use the device, where that was counted."""

    @property
    def ratio(self) -> float:
        """How many times better ours is."""
        return self.ours / self.baseline if self.higher_is_better else self.baseline / self.ours

    @property
    def is_met(self) -> bool:
        """Whether the ratio reaches the bar, where there is one."""
        return self.bar is None or self.ratio >= self.bar


def seconds(
    *ways: Callable[[], object],
    warm_up: Callable[[], object] | None = None,
    before: Callable[[], object] | None = None,
    repeats: int = REPEATS,
    device: torch.device | str = "cpu",
) -> list[float]:
    """The median seconds of each way: a warm-up, then `repeats` rounds in turn.

    Each way is its own warm-up where there is no shorter one. `before` runs before each call and is
    not timed.
    """
    for way in [warm_up] if warm_up else ways:
        way()
    spent: list[list[float]] = [[] for _ in ways]
    for _ in range(repeats):
        for way, times in zip(ways, spent, strict=True):
            if before:
                before()
            times.append(timed(way, device))
    return [statistics.median(times) for times in spent]


def extra_bytes(way: Callable[[], object], device: torch.device | str = "cpu") -> int:
    """Peak memory of one call above what was in use before it.

    On a GPU what torch allocated; elsewhere the process's resident memory, whose high-water mark
    Linux resets through /proc/self/clear_refs.
    """
    with peak(device) as sizes:
        way()
    return sizes[0]


@contextmanager
def peak(device: torch.device | str = "cpu") -> Iterator[list[int]]:
    """Yields a list that holds the extra peak bytes of the block once it has ended."""
    sizes: list[int] = []
    gc.collect()
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        yield sizes
        torch.cuda.synchronize(device)
        sizes.append(torch.cuda.max_memory_allocated(device) - before)
        return
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = _resident("VmRSS")
    yield sizes
    sizes.append(_resident("VmHWM") - before)


def timed(way: Callable[[], object], device: torch.device | str = "cpu") -> float:
    """Seconds of one call, what it started on a GPU included."""
    on_gpu = torch.device(device).type == "cuda"
    if on_gpu:
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    way()
    if on_gpu:
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def _resident(field: str) -> int:
    """A field of /proc/self/status in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(f"{field}:"))
    return int(line.split()[1]) * 1024
