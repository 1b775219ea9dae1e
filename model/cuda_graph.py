"""Passes over a block recorded as a CUDA graph: one call starts the kernels of all layers.

A pass of an 8B model over a block has some 1400 kernels, and Python takes longer to start them than
a GPU to run them: on an H200 22.5 ms for a pass whose kernels are busy for 7.6 ms (dual cache, one
request). The first pass of a shape runs normally, the second is recorded, and later ones replay the
recording. Where the block starts is read from a tensor, so that all blocks of the same length share
one recording. Shapes: B batch, S positions of the pass, D model width.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from model.cache import KeyValueCache
from model.llada import LLaDA

# Most positions of a recorded pass, over all rows. With more, the kernels take longer than starting
# them: a prefix pass for 4 requests took 31.3 ms recorded and 30.6 ms unrecorded.
MOST = 512
PLAIN = ("model.", "torch.nn.", "peft.tuners.lora.")


def can_record(model: LLaDA) -> bool:
    """Whether the model is on the current GPU and its passes consist of recordable kernels."""
    if model.device.type != "cuda" or torch.is_autocast_enabled("cuda"):
        return False
    return model.device.index == torch.cuda.current_device() and is_plain(model)


def is_plain(model: LLaDA) -> bool:
    """Whether every layer is ours, torch's or a LoRA's: none quantized, sharded or with new tokens.

    Other layers may copy from the host or communicate with other processes, which a graph cannot
    record.
    """
    layers = all(type(module).__module__.startswith(PLAIN) for module in model.modules())
    return layers and all(type(weight) is nn.Parameter for weight in model.parameters())


class Recorder:
    """Runs the passes over blocks for one cache and attention mask.

    A recording holds the addresses of both: when rows leave the batch, a new recorder is needed.
    """

    def __init__(
        self, model: LLaDA, cache: KeyValueCache, attention_BL: torch.Tensor | None
    ) -> None:
        self.model, self.cache, self.attention_BL = model, cache, attention_BL
        self.shape: torch.Size | None = None
        self.graph: torch.cuda.CUDAGraph | None = None

    def hidden(self, tokens_BS: torch.Tensor, start: int) -> torch.Tensor:
        """Final states [B, S, D] of positions start..start+S-1; the next call overwrites them."""
        if tokens_BS.shape != self.shape:
            self.shape, self.graph = tokens_BS.shape, None
            return self.model.hidden(tokens_BS, self.attention_BL, cache=self.cache, start=start)
        if self.graph is None:
            self.tokens_BS = tokens_BS.clone()
            self.start = torch.tensor(start, device=tokens_BS.device)
            self.graph = torch.cuda.CUDAGraph()
            # Thread-local: NCCL's watchdog and data loaders may call CUDA during the recording.
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
    """Stops the garbage collector: freeing an older graph during a recording would break it."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
