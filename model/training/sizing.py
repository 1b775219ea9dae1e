"""What training takes: memory by part and seconds by step, from a formula that a test measures.

    weights      stored parameters: 2 bytes under an adapter in bf16, 4 where all are trained
    adapter      trained parameters of an adapter, 4 bytes
    gradients    4 bytes a trained parameter
    optimizer    AdamW's two moments, 8 bytes a trained parameter
    activations  kept for the backward pass, and the block that is being computed
    loss         what the cross entropy of the masked positions holds

Fragmentation and NCCL's buffers are not counted. Standard library only: preflight and the plan of a
run use it beside the tables of docs/sizing.md.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

QUANTIZED = 0.53  # bytes of a weight in 4 bits with the scale of its block of 64
MASKED = 0.5  # of the positions, in the mean; a batch of one may mask nearly all
SLICE = 256 << 20  # bytes of logits that the sliced cross entropy holds on a GPU
REACHED = 0.4  # of the peak FLOPs, where nothing was measured: see docs/sizing.md
GIB = 1 << 30


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The sizes of a LLaDA; the defaults are LLaDA-8B's."""

    width: int = 4096
    kv_width: int = 4096
    hidden: int = 12288
    layers: int = 32
    heads: int = 32
    vocabulary: int = 126464
    tied: bool = False
    """Whether the head is the embedding."""

    @classmethod
    def read(cls, config: Mapping[str, Any]) -> "Shape":
        """The sizes in a config.json. Raises KeyError or TypeError where it names no LLaDA."""
        width, heads = config["d_model"], config["n_heads"]
        groups = config.get("n_kv_heads") or heads
        return cls(
            width=width,
            kv_width=width // heads * groups,
            hidden=config.get("mlp_hidden_size") or config["mlp_ratio"] * width,
            layers=config["n_layers"],
            heads=heads,
            vocabulary=config.get("embedding_size") or config["vocab_size"],
            tied=bool(config.get("weight_tying")),
        )

    @property
    def projections(self) -> dict[str, tuple[int, int]]:
        """Inputs and outputs of a block's linear layers."""
        width, hidden = self.width, self.hidden
        return {
            "q_proj": (width, width),
            "k_proj": (width, self.kv_width),
            "v_proj": (width, self.kv_width),
            "attn_out": (width, width),
            "ff_proj": (width, hidden),
            "up_proj": (width, hidden),
            "ff_out": (hidden, width),
        }

    @property
    def block(self) -> int:
        """Parameters of a block."""
        return sum(a * b for a, b in self.projections.values()) + 2 * self.width

    @property
    def parameters(self) -> int:
        """All parameters; a tied head counts once, as the embedding."""
        tables = 1 if self.tied else 2
        return self.layers * self.block + self.width + tables * self.vocabulary * self.width


@dataclass(frozen=True, kw_only=True)
class Run:
    """How it is trained."""

    length: int
    """Tokens of a sequence."""
    sequences: int = 1
    """Sequences of a micro-batch in one process."""
    views: int = 1
    """Forward passes whose activations are kept for one backward pass (GRPO's estimators)."""
    rank: int | None = 128
    """Of the adapter; None trains every weight."""
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "attn_out")
    checkpointing: bool = True
    processes: int = 1
    shard: bool = False
    bf16: bool = True
    quantized: bool = False
    """Whether the frozen blocks are kept in 4 bits (QLoRA)."""
    flash: bool = True
    """Whether attention keeps no table of probabilities: on GPUs it does not."""
    masked: float = MASKED
    slice_bytes: int = SLICE


def adapter_parameters(shape: Shape, run: Run) -> int:
    """Of the low-rank pairs."""
    if run.rank is None:
        return 0
    pairs = (shape.projections[name] for name in run.targets)
    return shape.layers * sum(run.rank * (a + b) for a, b in pairs)


def memory(shape: Shape, run: Run) -> dict[str, float]:
    """Bytes of one process by part; the peak is their sum, as gradients are accumulated."""
    full = run.rank is None
    trained = shape.parameters if full else adapter_parameters(shape, run)
    share = run.processes if run.shard else 1
    stored = 2 if run.bf16 and not full else 4
    return {
        "weights": (shape.parameters * stored - _saved_by_quantization(shape, run)) / share,
        "adapter": 0 if full else 4 * trained / share,
        "gradients": 4 * trained / share,
        "optimizer": 8 * trained / share,
        "activations": _activations(shape, run) + _gathered(shape, run),
        "loss": _loss(shape, run),
    }


def _saved_by_quantization(shape: Shape, run: Run) -> float:
    """Bytes by which 4 bits are fewer than the stored precision, in the blocks alone."""
    stored = 2 if run.bf16 else 4
    return shape.layers * shape.block * (stored - QUANTIZED) if run.quantized else 0


def _activations(shape: Shape, run: Run) -> float:
    """The blocks' inputs and one block's inside, or the inside of all where nothing is redone."""
    tokens = run.sequences * run.length
    inside = _inside(shape, run)
    if not run.checkpointing:
        return run.views * shape.layers * inside
    stream = 2 if run.bf16 and run.rank is not None else 4
    return run.views * shape.layers * tokens * shape.width * stream + inside


def _inside(shape: Shape, run: Run) -> float:
    """Bytes that the backward pass of one block needs.

    Norms are fp32: their input, and where they are trained their output before the scale. Trained
    and adapted linear layers keep their inputs, the feed-forward layer gate, silu(gate) and up.
    Attention keeps q, k, v and its result, and the probabilities where it is plain mathematics.
    """
    tokens, width = run.sequences * run.length, shape.width
    size = 2 if run.bf16 else 4
    norms = 2 * 4 * width
    layers = set(shape.projections if run.rank is None else run.targets)
    inputs = [{"q_proj", "k_proj", "v_proj"}, {"attn_out"}, {"ff_proj", "up_proj"}]
    linear = 3 * shape.hidden + width * sum(bool(layers & names) for names in inputs)
    linear += shape.hidden * ("ff_out" in layers)
    attention = 2 * width + 2 * shape.kv_width
    bytes_per_token = norms + size * (linear + attention)
    if run.rank is None:
        bytes_per_token += 2 * 4 * width
    else:
        bytes_per_token += len(run.targets) * run.rank * size
    if run.flash:
        return tokens * bytes_per_token
    return tokens * (bytes_per_token + size * shape.heads * run.length)


def _gathered(shape: Shape, run: Run) -> float:
    """Whole weights that a process holds for a while: two blocks, embedding and head (FSDP2)."""
    size = 2 if run.bf16 else 4
    if run.shard and run.processes > 1:
        return size * (2 * shape.block + 2 * shape.vocabulary * shape.width)
    if run.rank is None and run.bf16:
        embedding = 0 if shape.tied else shape.vocabulary * shape.width
        return size * (shape.parameters - embedding)  # autocast's copies
    return 0


def _loss(shape: Shape, run: Run) -> float:
    """Slices of the logits as product and fp32, and the states of the scored positions.

    Where the head is trained, its new gradient too, before it is added to the others.
    """
    scored = run.masked * run.sequences * run.length
    logits = min(run.slice_bytes, 4 * scored * shape.vocabulary)
    held = logits * (1.5 if run.bf16 else 1.0) + scored * shape.width * (2 + 4 + 4)
    head = shape.vocabulary * shape.width if run.rank is None else 0
    return held + head * (2 if run.bf16 and run.shard and run.processes > 1 else 4)


def rollout_memory(shape: Shape, answers: int, length: int, block: int, *, bf16: bool) -> float:
    """Bytes that generating `answers` together needs beside the weights.

    Keys and values of every position, the inside of a block of layers at the pass over the whole
    canvas, and the logits of a block of tokens with their probabilities in fp32.
    """
    size, tokens = 2 if bf16 else 4, answers * length
    cache = 2 * shape.layers * tokens * shape.kv_width * size
    inside = tokens * (3 * shape.hidden + 4 * shape.width) * size
    return cache + inside + answers * block * shape.vocabulary * (size + 8)


def flops_per_token(shape: Shape, run: Run, *, redone: bool = False) -> float:
    """FLOPs of a token's forward and backward pass, as PaLM counts them (arXiv:2204.02311).

    With `redone` those of activation checkpointing too, which computes every block again.
    """
    again = redone and run.checkpointing
    blocks = shape.layers * shape.block
    passes = 6 if run.rank is None else 4
    attention = shape.layers * shape.width * run.length * (12 + (4 if again else 0))
    flops: float = (passes + (2 if again else 0)) * blocks + attention
    flops += 6 * adapter_parameters(shape, run)
    return flops + passes * run.masked * shape.vocabulary * shape.width


def seconds_per_token(shape: Shape, run: Run, peak: float, reached: float = REACHED) -> float:
    """Of one process that reaches a share of the peak FLOPs, recomputation included."""
    return flops_per_token(shape, run, redone=True) / (peak * reached)
