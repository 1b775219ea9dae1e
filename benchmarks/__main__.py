"""Runs the benchmarks, prints a table of each and keeps it in RESULTS.md: `make bench`."""

import argparse
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import torch

from benchmarks import (
    adapter_step,
    cost,
    first_run,
    generation,
    likelihood,
    loading,
    margins,
    merging,
    packing,
    training,
    training_step,
)
from benchmarks.measure import Row

RESULTS = Path(__file__).parent / "RESULTS.md"
BENCHMARKS: dict[str, Callable[[str], list[Row]]] = {
    "training_step": training_step.rows,
    "packing": packing.rows,
    "margins": margins.rows,
    "likelihood": likelihood.rows,
    "loading": loading.rows,
    "merging": merging.rows,
    "training": training.rows,
    "generation": generation.rows,
    "adapter_step": adapter_step.rows,
}
GPU_ONLY = {"adapter_step"}
FIRST_RUN = "first_run"  # of whole runs: takes long, and keeps its table in docs/results.md


def main() -> None:
    """The command line behind `make bench`; exit code 1 when a bar is not met on a CPU."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "names", nargs="*", choices=[[], *BENCHMARKS, FIRST_RUN], help="default: all but first_run"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    given = parser.parse_args()
    if FIRST_RUN in given.names:
        if len(given.names) > 1:
            parser.error("first_run: measured by itself")
        raise SystemExit(first_run.main())
    on_gpu = given.device != "cpu"
    if not on_gpu and GPU_ONLY.intersection(given.names):
        parser.error(f"{', '.join(GPU_ONLY)}: measured on a GPU alone, found: {given.device}")
    names = given.names or [name for name in BENCHMARKS if on_gpu or name not in GPU_ONLY]
    if len(names) > 1:  # each in a process of its own: what one leaves behind slows the next
        ends = [alone(name, given.device) for name in names]
        raise SystemExit(max(ends))
    rows = BENCHMARKS[names[0]](given.device)
    if on_gpu:  # the bars are for two cores and the small shapes
        rows = [replace(row, bar=None) for row in rows]
    text = table(rows, given.device)
    print(f"{names[0]}: {text}\n", flush=True)
    keep(names[0], given.device, text)
    raise SystemExit(0 if all(row.is_met for row in rows) else 1)


def alone(name: str, device: str) -> int:
    """Runs one benchmark in a new process; its exit code."""
    command = [sys.executable, "-m", "benchmarks", name, "--device", device]
    return abs(subprocess.run(command, check=False).returncode)


def table(rows: list[Row], device: str) -> str:
    """The rows as Markdown below a line that names the machine."""
    head = ["work", "against", "theirs", "ours", "ratio", "bar", ""]
    lines, above = [cells(row) for row in rows], [machine(device)]
    if any(row.use for row in rows):
        above.append(cost.ceilings(device).legend)
        head += ["MFU, theirs", "ours", "bandwidth floor, theirs", "ours"]
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
    figures = (f"{figure:.4g} {row.unit}" for figure in (row.theirs, row.ours))
    verdict = ["", ""]
    if row.bar is not None:
        verdict = [f"{row.bar:g}x", "met" if row.is_met else "NOT met"]
    return [row.work, row.against, *figures, f"{row.ratio:.2f}x", *verdict]


def use_cells(row: Row) -> list[str]:
    """What both ways make of the device."""
    if row.use is None:
        return [""] * 4
    theirs, ours = row.use
    shares = (theirs.flops, ours.flops, theirs.bandwidth, ours.bandwidth)
    return [f"{share:.1%}" for share in shares]


def machine(device: str) -> str:
    """What the figures were measured on."""
    stamp = datetime.now(UTC).strftime("%Y-%m-%d")
    if device == "cuda":
        place = torch.cuda.get_device_name()
    else:
        place = f"{os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}"
    return (
        f"{stamp}, {place}, {platform.system()}, Python {platform.python_version()}, "
        f"torch {torch.__version__}; medians of 5 after a warm-up, in one process."
    )


if __name__ == "__main__":
    main()
