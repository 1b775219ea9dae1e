"""What training takes: memory by part and seconds by step, from a formula that a test measures.

    weights      stored parameters: 2 bytes under an adapter in bf16, 4 where all are trained
    adapter      trained parameters of an adapter, 4 bytes
    gradients    4 bytes a trained parameter
    optimizer    AdamW's two moments, 8 bytes a trained parameter
    activations  kept for the backward pass, and the block that is being computed
    loss         what the cross entropy of the masked positions holds

`python -m benchmarks.sizing` prints the tables of docs/sizing.md. Of a GPU it knows the peak FLOPs
and assumes how much of them is reached; fragmentation and NCCL's buffers are not counted.
"""

from dataclasses import dataclass

from model.training.throughput import PEAKS

MASKED = 0.5  # of the positions, in the mean; a batch of one may mask nearly all
SLICE = 256 << 20  # bytes of logits that the sliced cross entropy holds on a GPU
REACHED = 0.4  # of the peak FLOPs, an assumption: see docs/sizing.md
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
        """All parameters, embedding and head apart from each other."""
        return self.layers * self.block + self.width + 2 * self.vocabulary * self.width


@dataclass(frozen=True, kw_only=True)
class Run:
    """How it is trained."""

    length: int
    """Tokens of a sequence."""
    sequences: int = 1
    """Sequences of a micro-batch in one process."""
    rank: int | None = 128
    """Of the adapter; None trains every weight."""
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "attn_out")
    checkpointing: bool = True
    processes: int = 1
    shard: bool = False
    bf16: bool = True
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
        "weights": shape.parameters * stored / share,
        "adapter": 0 if full else 4 * trained / share,
        "gradients": 4 * trained / share,
        "optimizer": 8 * trained / share,
        "activations": _activations(shape, run) + _gathered(shape, run),
        "loss": _loss(shape, run),
    }


def _activations(shape: Shape, run: Run) -> float:
    """The blocks' inputs and one block's inside, or the inside of all where nothing is redone."""
    tokens = run.sequences * run.length
    inside = _inside(shape, run)
    if not run.checkpointing:
        return shape.layers * inside
    stream = 2 if run.bf16 and run.rank is not None else 4
    return shape.layers * tokens * shape.width * stream + inside


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
        return size * (shape.parameters - shape.vocabulary * shape.width)  # autocast's copies
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


def seconds_per_token(shape: Shape, run: Run, peak: float = PEAKS["H100"]) -> float:
    """Of one process: model FLOPs, the recomputation of checkpointing, by what is reached."""
    blocks = shape.layers * shape.block
    passes = 6 if run.rank is None else 4
    redone = 2 if run.checkpointing else 0
    attention = shape.layers * shape.width * run.length * (12 + (4 if run.checkpointing else 0))
    flops: float = (passes + redone) * blocks + 6 * adapter_parameters(shape, run) + attention
    flops += passes * run.masked * shape.vocabulary * shape.width
    return flops / (peak * REACHED)


def tables() -> str:
    """Memory and speed of LLaDA-8B on 80 GB GPUs, as Markdown."""
    shape, lines = Shape(), []
    head = ("weights", "adapter", "gradients", "optimizer", "activations", "loss")
    lines.append(f"| training | GPUs | tokens | {' | '.join(head)} | sum, GiB | tokens/s |")
    lines.append("|" + "---|" * (len(head) + 5))
    for rank, shard in ((128, False), (128, True), (None, True)):
        for processes in (1, 4, 8):
            for length in (4096, 8192):
                run = Run(length=length, rank=rank, processes=processes, shard=shard)
                if not (shard and processes == 1 and rank):
                    lines.append(_line(shape, run, head))
    return "\n".join(lines)


def _line(shape: Shape, run: Run, head: tuple[str, ...]) -> str:
    parts = memory(shape, run)
    total = sum(parts.values()) / GIB
    speed = run.processes / seconds_per_token(shape, run)
    kind = "every weight" if run.rank is None else f"LoRA {run.rank}"
    way = "FSDP2" if run.shard and run.processes > 1 else "DDP" if run.processes > 1 else "one"
    shown = f"{speed:,.0f}" if total < 76 else "does not fit"
    cells = " | ".join(f"{parts[name] / GIB:.1f}" for name in head)
    return f"| {kind}, {way} | {run.processes} | {run.length} | {cells} | {total:.1f} | {shown} |"


if __name__ == "__main__":
    print(tables())
