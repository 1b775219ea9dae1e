"""Runs the benchmarks, prints a table of each and keeps it in RESULTS.md: `make bench`."""

import argparse
import os
import platform
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import torch

from benchmarks import (
    adapter_step,
    base_by_reference,
    cost,
    evaluate,
    first_run,
    generation,
    grpo_step,
    likelihood,
    loading,
    margins,
    merging,
    packing,
    processes,
    ranges,
    training,
    training_step,
    transfers,
)
from benchmarks.measure import Row
from model.training.preemption import Stopped, stoppable

RESULTS = Path(__file__).parent / "RESULTS.md"
BENCHMARKS: dict[str, Callable[[str], list[Row]]] = {
    "training_step": training_step.rows,
    "packing": packing.rows,
    "margins": margins.rows,
    "likelihood": likelihood.rows,
    "loading": loading.rows,
    "merging": merging.rows,
    "base_by_reference": base_by_reference.rows,
    "ranges": ranges.rows,
    "training": training.rows,
    "generation": generation.rows,
    "grpo_step": grpo_step.rows,
    "evaluate": evaluate.rows,
    "transfers": transfers.rows,
    "adapter_step": adapter_step.rows,
}
GPU_ONLY = {"adapter_step"}
FIRST_RUN = "first_run"  # of whole runs: takes long, and keeps its table in docs/results.md


def main() -> None:
    """The command line behind `make bench`; a signal ends it with one line and 128 + its number."""
    try:
        with stoppable():
            raise SystemExit(run())
    except Stopped as notice:
        processes.end_all()
        print(f"benchmarks: stopped: {notice}", file=sys.stderr)
        raise SystemExit(notice.code) from None


def run() -> int:
    """Runs the benchmarks; the exit code is 1 when a bar is not met on a CPU."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "names", nargs="*", choices=[[], *BENCHMARKS, FIRST_RUN], help="default: all but first_run"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    if FIRST_RUN in options.names:
        if len(options.names) > 1:
            parser.error("first_run: measured by itself")
        return first_run.main()
    on_gpu = options.device != "cpu"
    if not on_gpu and GPU_ONLY.intersection(options.names):
        parser.error(f"{', '.join(GPU_ONLY)}: measured on a GPU only, not on {options.device}")
    names = options.names or [name for name in BENCHMARKS if on_gpu or name not in GPU_ONLY]
    if len(names) > 1:  # memory that one has left behind would slow the next
        return max([alone(name, options.device) for name in names])
    rows = BENCHMARKS[names[0]](options.device)
    if on_gpu:  # the bars are for two cores and the small shapes
        rows = [replace(row, bar=None) for row in rows]
    text = table(rows, options.device)
    print(f"{names[0]}: {text}\n", flush=True)
    keep(names[0], options.device, text)
    return 0 if all(row.is_met for row in rows) else 1


def alone(name: str, device: str) -> int:
    """Runs one benchmark in a new process and returns its exit code."""
    command = [sys.executable, "-m", "benchmarks", name, "--device", device]
    return abs(processes.run(command))


def table(rows: list[Row], device: str) -> str:
    """The rows as Markdown below a line that names the machine."""
    head = ["work", "against", "baseline", "ours", "ratio", "bar", ""]
    lines, above = [cells(row) for row in rows], [machine(device)]
    if any(row.use for row in rows):
        above.append(cost.ceilings(device).legend)
        head += ["MFU, baseline", "ours", "bandwidth floor, baseline", "ours"]
        lines = [[*line, *use_cells(row)] for line, row in zip(lines, rows, strict=True)]
    lines = [head, ["---"] * len(head), *lines]
    return "\n".join([*above, "", *(f"| {' | '.join(line)} |" for line in lines)])


def keep(name: str, device: str, text: str) -> None:
    """Puts the table into RESULTS.md in the place of the benchmark's last one on such a device."""
    known = RESULTS.read_text() if RESULTS.exists() else ""
    sections = dict(re.findall(r"^## (.+)\n\n((?:(?!## ).*\n?)*)", known, flags=re.MULTILINE))
    sections[f"{name}, {device}"] = text
    parts = [f"## {title}\n\n{sections[title].strip()}\n" for title in sorted(sections)]
    RESULTS.write_text("\n".join(["# Results\n", *parts]))


def cells(row: Row) -> list[str]:
    """One row of the table."""
    figures = (f"{figure:.4g} {row.unit}" for figure in (row.baseline, row.ours))
    verdict = ["", ""]
    if row.bar is not None:
        verdict = [f"{row.bar:g}x", "met" if row.is_met else "NOT met"]
    return [row.work, row.against, *figures, f"{row.ratio:.2f}x", *verdict]


def use_cells(row: Row) -> list[str]:
    """How the baseline and our code use the device."""
    if row.use is None:
        return [""] * 4
    baseline, ours = row.use
    shares = (baseline.flops, ours.flops, baseline.bandwidth, ours.bandwidth)
    return [f"{share:.1%}" for share in shares]


def machine(device: str) -> str:
    """The machine that the figures were measured on."""
    stamp = datetime.now(UTC).strftime("%Y-%m-%d")
    if device == "cuda":
        place = torch.cuda.get_device_name()
    else:
        place = f"{os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}"
    return (
        f"{stamp}, {place}, {platform.system()}, Python {platform.python_version()}, "
        f"torch {torch.__version__}; medians of 3 rounds or more, in one process."
    )


if __name__ == "__main__":
    main()
