"""Runs the benchmarks, prints a table of each and keeps it in RESULTS.md: `make bench`."""

import argparse
import os
import platform
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import torch

from benchmarks import (
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
}


def main() -> None:
    """The command line behind `make bench`; exit code 1 when a bar is not met."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[[], *BENCHMARKS], help="default: all")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    given = parser.parse_args()
    is_met = True
    for name in given.names or BENCHMARKS:
        rows = BENCHMARKS[name](given.device)
        text = table(rows, given.device)
        print(f"{name}: {text}\n", flush=True)
        keep(name, given.device, text)
        is_met &= all(row.is_met for row in rows)
    raise SystemExit(0 if is_met else 1)


def table(rows: list[Row], device: str) -> str:
    """The rows as Markdown below a line that names the machine."""
    head = "| work | against | theirs | ours | ratio | bar | |\n|---|---|---|---|---|---|---|"
    return "\n".join([machine(device), "", head, *map(line, rows)])


def keep(name: str, device: str, text: str) -> None:
    """Puts the table into RESULTS.md in the place of the benchmark's last one on such a device."""
    known = RESULTS.read_text() if RESULTS.exists() else ""
    sections = dict(re.findall(r"^## (.+)\n\n((?:(?!## ).*\n?)*)", known, flags=re.MULTILINE))
    sections[f"{name}, {device}"] = text
    parts = [f"## {title}\n\n{sections[title].strip()}\n" for title in sorted(sections)]
    RESULTS.write_text("\n".join(["# Results\n", *parts]))


def line(row: Row) -> str:
    """One row of the table."""
    verdict = " | "
    if row.bar is not None:
        verdict = f"{row.bar:g}x | {'met' if row.is_met else 'NOT met'}"
    return (
        f"| {row.work} | {row.against} | {row.theirs:.4g} {row.unit} | {row.ours:.4g} {row.unit} "
        f"| {row.ratio:.2f}x | {verdict} |"
    )


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
