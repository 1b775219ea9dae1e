"""Passes over a block recorded as a CUDA graph: one call starts the kernels of all layers.

A pass of an 8B model over a block has some 1400 kernels, and a GPU runs most of them faster than
Python starts them (DECISIONS.md). The first pass of a shape runs as it is, the second is recorded,
and from then on it is replayed: where the block lies is read from a tensor, so that blocks of one
length share a recording. Shapes: B batch, S positions of the pass, D model width.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from model.cache import KeyValueCache
from model.llada import LLaDA

MOST = 512  # positions of a pass: with more the GPU is the slower of the two (DECISIONS.md)
PLAIN = ("model.", "torch.nn.", "peft.tuners.lora.")


def can_record(model: LLaDA) -> bool:
    """Whether the model lies on the current GPU and its passes are kernels alone."""
    if model.device.type != "cuda" or torch.is_autocast_enabled("cuda"):
        return False
    return model.device.index == torch.cuda.current_device() and is_plain(model)


def is_plain(model: LLaDA) -> bool:
    """Whether every layer is our own, torch's or a LoRA: not quantized, sharded or with new tokens.

    Others may copy from the host or speak to other processes, which a recording cannot hold.
    """
    layers = all(type(module).__module__.startswith(PLAIN) for module in model.modules())
    return layers and all(type(weight) is nn.Parameter for weight in model.parameters())


class Recorder:
    """Runs the block passes of rows that stay the same, over one cache and attention mask."""

    def __init__(
        self, model: LLaDA, cache: KeyValueCache, attention_BL: torch.Tensor | None
    ) -> None:
        self.model, self.cache, self.attention_BL = model, cache, attention_BL
        self.shape: torch.Size | None = None
        self.graph: torch.cuda.CUDAGraph | None = None

    def hidden(self, tokens_BS: torch.Tensor, start: int) -> torch.Tensor:
        """Final states [B, S, D] of positions start..start+S; the next call overwrites them."""
        if tokens_BS.shape != self.shape:
            self.shape, self.graph = tokens_BS.shape, None
            return self.model.hidden(tokens_BS, self.attention_BL, cache=self.cache, start=start)
        if self.graph is None:
            self.tokens_BS = tokens_BS.clone()
            self.start = torch.tensor(start, device=tokens_BS.device)
            self.graph = torch.cuda.CUDAGraph()
            # Thread-local: NCCL's watchdog and data loaders may go on with calls of their own.
            with (
                _no_collection(),
                torch.cuda.graph(self.graph, capture_error_mode="thread_local"),
            ):
                self.hidden_BSD = self.model.hidden(
                    self.tokens_BS, self.attention_BL, cache=self.cache, start=self.start
                )
        self.tokens_BS.copy_(tokens_BS)
        self.start.fill_(start)
        self.graph.replay()
        return self.hidden_BSD


@contextmanager
def _no_collection() -> Iterator[None]:
    """Holds back the garbage collector: an older graph that it frees would break a recording."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
