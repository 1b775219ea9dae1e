"""Memory and speed of LLaDA-8B in training on 80 GB GPUs: the tables of docs/sizing.md.

`model.training.sizing` has the formula; `python -m benchmarks.sizing` prints what follows from it.
"""

from model.training.sizing import Run, Shape, memory, seconds_per_token
from model.training.throughput import PEAKS

GIB = 1 << 30


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
    speed = run.processes / seconds_per_token(shape, run, PEAKS["H100"])
    kind = "every weight" if run.rank is None else f"LoRA {run.rank}"
    way = "FSDP2" if run.shard and run.processes > 1 else "DDP" if run.processes > 1 else "one"
    shown = f"{speed:,.0f}" if total < 76 else "does not fit"
    cells = " | ".join(f"{parts[name] / GIB:.1f}" for name in head)
    return f"| {kind}, {way} | {run.processes} | {run.length} | {cells} | {total:.1f} | {shown} |"


if __name__ == "__main__":
    print(tables())
