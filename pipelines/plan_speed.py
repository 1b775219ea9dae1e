"""How fast a stage runs, from the tables of benchmarks/RESULTS.md: training and generation.

A speed that was measured on one shape is carried over to another by the FLOPs of a token, and
never beyond the card that it was measured on.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from model.training.sizing import Run, Shape, flops_per_token, seconds_per_token
from model.training.throughput import PEAKS

RESULTS = Path(__file__).parents[1] / "benchmarks" / "RESULTS.md"
NUMBER = r"([\d.e+]+)"
TRAINED = re.compile(
    rf"LoRA 128 on LLaDA-8B, one sequence of (\d+) tokens \|[^|]*\| {NUMBER} tokens/s"
    rf" \| {NUMBER} tokens/s"
)
GENERATED = re.compile(
    rf"generate 256 tokens for (\d+) at once, (\w+) cache, d (\d+), (\d+) layers, \w+ \|[^|]*\| "
    rf"{NUMBER} tokens/s \| {NUMBER} tokens/s"
)
ON_CPU = re.compile(rf"SFT of the tiny model, 2 processes \| 1 process \| {NUMBER} tokens/s")
VOCABULARIES = {512: 32768}  # of benchmarks/network.py's small model
# The model of that line (benchmarks/training.py): sequences of 64, every weight trained, fp32.
TINY = Shape(width=128, kv_width=128, hidden=384, layers=4, heads=4, vocabulary=384)
TINY_RUN = Run(length=64, rank=None, checkpointing=False, bf16=False, flash=False)


@dataclass(frozen=True)
class Speed:
    """What was measured on one device."""

    device: str
    peak: float
    """FLOPs per second at most, 0 for a CPU."""
    rates: dict[int, float]
    """FLOPs per second in training, recomputation included, by the length of a sequence."""
    generated: dict[tuple[str, int], float]
    """Parameters times tokens per second of generation, by the kind of cache and the rows."""

    def train(self, shape: Shape, run: Run) -> float:
        """Tokens per second of one process."""
        nearest = min(self.rates, key=lambda length: abs(length - run.length))
        return 1 / seconds_per_token(shape, run, self.rates[nearest], 1.0)

    def mfu(self, shape: Shape, run: Run) -> float | None:
        """The share of the peak FLOPs that the mathematics takes; None for a CPU."""
        if not self.peak:
            return None
        return self.train(shape, run) * flops_per_token(shape, run) / self.peak

    def generate(self, shape: Shape, rows: int, cache: str) -> float:
        """Tokens per second of one process, for a token a pass; `none` is upstream's loop."""
        known = [number for kind, number in self.generated if kind == cache]
        fitting = [number for number in known if number <= rows] or [min(known)]
        return self.generated[cache, max(fitting)] / shape.parameters


def measured(gpu: bool, text: str | None = None) -> Speed:
    """The speeds in the tables, of a GPU or of a CPU with 2 cores."""
    table = RESULTS.read_text() if text is None else text
    sections = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", table, re.DOTALL | re.MULTILINE))
    suffix = "cuda" if gpu else "cpu"
    generation = sections[f"generation, {suffix}"]
    generated: dict[tuple[str, int], float] = {}
    for rows, cache, width, layers, plain, ours in GENERATED.findall(generation):
        size = _shape(int(width), int(layers)).parameters
        generated[cache, int(rows)] = float(ours) * size
        generated["none", int(rows)] = float(plain) * size
    if not gpu:
        (speed,) = ON_CPU.findall(sections["training, cpu"])
        rate = float(speed) * flops_per_token(TINY, TINY_RUN)
        return Speed("2 cores", 0.0, {TINY_RUN.length: rate}, generated)
    section = sections["adapter_step, cuda"]
    (card,) = re.findall(r"^\d{4}-\d\d-\d\d, ([^,]+),", section, re.MULTILINE)
    rates = {
        int(length): float(ours) * flops_per_token(Shape(), Run(length=int(length)), redone=True)
        for length, _, ours in TRAINED.findall(section)
    }
    peak = next(peak for name, peak in PEAKS.items() if name in card)
    return Speed(card, peak, rates, generated)


def _shape(width: int, layers: int) -> Shape:
    """The network of the benchmarks of generation: LLaDA-8B, or a small one (on a CPU)."""
    rows = VOCABULARIES.get(width, Shape().vocabulary)
    return Shape(width=width, kv_width=width, hidden=3 * width, layers=layers, vocabulary=rows)
