"""The tiny recipe over seeds and kinds of arithmetic: is the first run a demonstration, or luck?

Nine SFT models, each aligned with GRPO and with DPO: 27 figures of exact match on unseen problems.
Each stage is a process, as in a run, and one that is complete is not run again: the same command
goes on where it was stopped. Takes most of an hour on two cores and is no part of `make bench`.
"""

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks import processes
from components import artifact
from components.preflight.config import Recipe
from pipelines.form import arguments
from pipelines.recipes import tiny

RUNS = Path(".runs/first_run")
RESULTS = Path(__file__).parents[1] / "docs" / "results.md"
BEGIN, END = "<!-- first_run -->\n", "<!-- /first_run -->\n"
LOWEST, HIGHEST, RISE, SPREAD = 45.0, 75.0, 10.0, 6.0  # percent, percent, points, points


@dataclass(frozen=True)
class Variant:
    """A seed, or a kind of arithmetic, whose last bits differ."""

    name: str
    seed: int = 0
    environment: Mapping[str, str] = field(default_factory=dict)
    precision: str | None = None

    def recipe(self) -> Recipe:
        """The tiny recipe of this variant."""
        recipe = tiny(seed=self.seed)
        if self.precision is None:
            return recipe
        stages = ("pretrain", "sft", "dpo", "grpo")
        configs = {
            name: replace(getattr(recipe, name), precision=self.precision) for name in stages
        }
        return replace(recipe, **configs)


VARIANTS = (
    *(Variant(f"seed {seed}", seed=seed) for seed in range(5)),
    *(
        Variant(f"seed 0, ATEN_CPU_CAPABILITY={kind}", environment={"ATEN_CPU_CAPABILITY": kind})
        for kind in ("default", "avx2", "avx512")
    ),
    Variant("seed 0, precision=fp32", precision="fp32"),
)


class Figures(NamedTuple):
    """Exact match in percent."""

    base: float
    sft: float
    grpo: float
    dpo: float

    @property
    def is_met(self) -> bool:
        """Whether the base is weak, SFT of use, and the alignment a clear gain."""
        aligned = min(self.grpo, self.dpo)
        return self.base > 0 and LOWEST <= self.sft <= HIGHEST and aligned >= self.sft + RISE


def main() -> int:
    """Runs what is missing, prints the table and keeps it; the exit code is 1 if a bar is missed.

    As many variants run side by side as there are processors, with a thread each. Of variants with
    equal settings, as fp32 and a recipe that computes in fp32 anyway, one is run.
    """
    runs = [same(variant) for variant in VARIANTS]
    distinct = list(dict.fromkeys(run.name for run in runs))
    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        results = pool.map(measure, [run for run in VARIANTS if run.name in distinct])
        by_name = dict(zip(distinct, results, strict=True))
    finally:  # where one has failed or a signal came, the others are not begun
        pool.shutdown(wait=False, cancel_futures=True)
    figures = [by_name[run.name] for run in runs]
    text = table(figures)
    print(text)
    known = RESULTS.read_text()
    before, _, rest = known.partition(BEGIN)
    RESULTS.write_text(f"{before}{BEGIN}{text}{END}{rest.partition(END)[2]}")
    spread = statistics.stdev(row.sft for row in figures)
    return 0 if spread <= SPREAD and all(row.is_met for row in figures) else 1


def same(variant: Variant) -> Variant:
    """The first variant with the recipe and the environment of this one."""
    settings = variant.recipe(), variant.environment
    return next(other for other in VARIANTS if (other.recipe(), other.environment) == settings)


def measure(variant: Variant) -> Figures:
    """The figures of one variant; stages that are complete are not run again."""
    run = Run(variant)
    source = run.stage("download", {}, model="model", dataset="dataset", metrics="download-metrics")
    model, data = source["model"], {"dataset": source["dataset"]}
    base = run.trained("pretrain", model, data)
    tuned = run.trained("sft", base, data)
    aligned = [run.trained(stage, tuned, data) for stage in ("grpo", "dpo")]
    figures = [run.accuracy("evaluate_base", base, data)]
    figures += [run.accuracy("evaluate", model, data) for model in (tuned, *aligned)]
    return Figures(*figures)


class Run:
    """The stages of one variant, each a process that writes below a directory of the variant's."""

    def __init__(self, variant: Variant) -> None:
        self.directory = RUNS / variant.name.replace(", ", "-").replace(" ", "-")
        self.configs = arguments(variant.recipe())
        self.environment = {**os.environ, "OMP_NUM_THREADS": "1", **variant.environment}

    def stage(
        self, stage: str, inputs: Mapping[str, Path], config: str | None = None, **outputs: str
    ) -> dict[str, Path]:
        """Runs a stage unless its outputs have their records; returns the outputs."""
        paths = {name: self.directory / folder for name, folder in outputs.items()}
        if all((path / artifact.RECORD).exists() for path in paths.values()):
            return paths
        command = [sys.executable, "-m", f"components.{stage}"]
        command += ["--config", json.dumps(self.configs[config or stage])]
        for name, path in {**inputs, **paths}.items():
            command += [f"--{name}", str(path)]
        self.directory.mkdir(parents=True, exist_ok=True)
        with (self.directory / f"{next(iter(paths.values())).name}.log").open("w") as log:
            print(f"first_run: {self.directory.name}: {log.name}", flush=True)
            code = processes.run(command, env=self.environment, stdout=log, stderr=log)
        if code:
            raise subprocess.CalledProcessError(code, command)
        return paths

    def trained(self, stage: str, base: Path, data: Mapping[str, Path]) -> Path:
        """Trains and merges; returns the model."""
        made = self.stage(
            stage, {"base": base, **data}, trained=f"{stage}-trained", metrics=f"{stage}-metrics"
        )
        inputs = {"base": base, "trained": made["trained"]}
        metrics = f"{stage}-merge-metrics"
        return self.stage("merge", inputs, model=f"{stage}-model", metrics=metrics)["model"]

    def accuracy(self, config: str, model: Path, data: Mapping[str, Path]) -> float:
        """Exact match of a model, in percent."""
        names = {"evaluation": f"{model.name}-answers", "metrics": f"{model.name}-figures"}
        made = self.stage("evaluate", {"model": model, **data}, config, **names)
        return 100 * artifact.read(made["evaluation"])["summary"]["accuracy"]


def table(rows: list[Figures]) -> str:
    """The figures as Markdown, below a line that names the machine."""
    capability = torch.backends.cpu.get_cpu_capability()
    lines = [
        f"{os.cpu_count()} cores, {capability}, torch {torch.__version__}, a thread a run:\n",
        "| run | base | SFT | GRPO | DPO | |",
        "|---|---|---|---|---|---|",
    ]
    for variant, figures in zip(VARIANTS, rows, strict=True):
        shown = " | ".join(f"{value:.1f}" for value in figures)
        lines.append(f"| {variant.name} | {shown} | {'met' if figures.is_met else 'NOT met'} |")
    columns = list(zip(*rows, strict=True))
    means = " | ".join(f"{statistics.mean(column):.1f}" for column in columns)
    spreads = " | ".join(f"{statistics.stdev(column):.1f}" for column in columns)
    lines += [f"| mean | {means} | |", f"| standard deviation | {spreads} | |"]
    return "\n".join(lines) + "\n"
