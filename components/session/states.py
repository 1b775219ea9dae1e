"""The files of a saved state: written while training goes on, read tensor by tensor.

Training copies its tensors to memory, and a thread writes and sends the copies. At most AHEAD
shards wait for the thread, so that a state of any size takes a bounded amount of memory.
"""

import json
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from components import artifact, storage

FACTS = "facts.json"
FORMAT = 1
SHARD_BYTES = 1 << 30
AHEAD = 3  # shards, beside the one that training fills and the one that is being written
NICE = 10  # of 19, how far the thread gives way
Shard = dict[str, torch.Tensor]


class Delivery:
    """One state on its way from training, which fills shards, to the thread that writes them."""

    def __init__(self, write: Callable[["Delivery"], None]) -> None:
        """`write` runs in the thread; it iterates over the shards as they come."""
        self.waited = 0.0
        """Seconds for which training waited; known once the shards are at their end."""
        self._write = write
        self._shards: queue.Queue[Shard | BaseException | None] = queue.Queue(AHEAD)
        self._is_handed = False
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def take(self, tensors: Iterator[tuple[str, torch.Tensor]]) -> None:
        """Copies all tensors; waits for the thread while AHEAD shards are in memory."""
        started = time.monotonic()
        try:
            for shard in shards(tensors):
                self._shards.put(shard)
        except BaseException as error:
            self._shards.put(error)
            raise
        self.waited = time.monotonic() - started
        self._shards.put(None)

    @property
    def is_over(self) -> bool:
        """Whether the thread has ended."""
        return not self._thread.is_alive()

    def wait(self) -> None:
        """Until the thread has ended. Raises what it raised."""
        self._thread.join()
        if self._error is not None:
            raise self._error

    def __iter__(self) -> Iterator[Shard]:
        while (item := self._next()) is not None:
            if isinstance(item, BaseException):
                raise RuntimeError("the tensors ended early") from item
            yield item

    def _run(self) -> None:
        _give_way()
        try:
            self._write(self)
        except Exception as error:
            self._error = error
        while not self._is_handed:
            self._next()  # or training would wait for ever to hand over the rest

    def _next(self) -> Shard | BaseException | None:
        item = self._shards.get()
        self._is_handed = not isinstance(item, dict)
        return item


def _give_way() -> None:
    """Where processors are few, they are training's first; on Linux a thread has its own share."""
    if sys.platform == "linux":
        who = os.PRIO_PROCESS, threading.get_native_id()
        os.setpriority(*who, max(NICE, os.getpriority(*who)))


def shards(tensors: Iterator[tuple[str, torch.Tensor]]) -> Iterator[Shard]:
    """Copies of the tensors in memory, some SHARD_BYTES at a time."""
    shard: Shard = {}
    size = 0
    for name, tensor in tensors:
        shard[name] = tensor.detach().to("cpu", copy=True).contiguous()
        size += shard[name].nbytes
        if size >= SHARD_BYTES:
            yield shard
            shard, size = {}, 0
    if shard:
        yield shard


def write(folder: Path, delivery: Iterable[Shard]) -> None:
    """A file for every shard."""
    for number, shard in enumerate(delivery, 1):
        save_file(shard, folder / f"state-{number:05d}.safetensors")


class Tensors(Mapping[str, torch.Tensor]):
    """The tensors of a state, each read when it is used."""

    def __init__(self, folder: Path) -> None:
        self.files: dict[str, Any] = {}
        for path in sorted(folder.glob("*.safetensors")):
            file = safe_open(path, framework="pt")
            self.files |= {name: file for name in file.keys()}

    def __getitem__(self, name: str) -> torch.Tensor:
        return self.files[name].get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.files)

    def __len__(self) -> int:
        return len(self.files)


def check(folder: Path, step: int) -> None:
    """Raises ValueError unless the folder holds a state of this step in this format."""
    facts = storage.read_json(folder / FACTS)
    if not isinstance(facts, dict) or not isinstance(facts.get("wandb"), str):
        raise ValueError(f"{FACTS} is not of a checkpoint")
    if (facts["format"], facts["step"]) != (FORMAT, step):
        raise ValueError(f"{FACTS} is of step {facts['step']} in format {facts['format']}")
    for number, line in enumerate((folder / artifact.METRICS).read_text().splitlines(), 1):
        if not isinstance(json.loads(line), dict):
            raise ValueError(f"{artifact.METRICS}:{number} is not a record")
    if not Tensors(folder):
        raise ValueError("it holds no tensors")
