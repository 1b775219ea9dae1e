"""Training through the stage's own command: tokens/s by processes, and what checkpoints cost.

A new tiny model learns made data; on GPUs one process has one GPU, on CPUs one core. The state that
is saved is as large as a rank-128 adapter of LLaDA-8B with its moments, below 2 GB.
"""

import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from benchmarks import processes
from benchmarks.measure import Row, seconds
from components.session.checkpoints import Checkpoints
from components.session.sinks import History
from model.training.config import Training

CONFIG = {"steps": 60, "batch_size": 16, "micro_batch_size": 4, "max_length": 64}
WARM_UP = 20  # steps that do not count
LIMIT, MINUTES = 0.01, 5  # share of the time that checkpoints may take, at this interval
TENSORS, SIDE = 3 * 32 * 4, 1024  # of SIDE x SIDE fp32: 1.6 GB


def rows(device: str) -> list[Row]:
    """Both measurements."""
    return [*_processes(device), _checkpoints()]


def _processes(device: str) -> list[Row]:
    most = torch.cuda.device_count() if device == "cuda" else min(os.cpu_count() or 1, 2)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        made = {name: root / name for name in ("model", "dataset", "metrics")}
        _stage(["-m", "components.download"], {"model": "new", "made": "sums"}, made)
        speeds = {n: _speed(root, n) for n in (1, 2, 4, 8) if n <= most}
    return [
        Row(
            work=f"SFT of the tiny model, {n} processes",
            against="1 process",
            unit="tokens/s",
            baseline=speeds[1],
            ours=speed,
            bar=1.0,
            higher_is_better=True,
        )
        for n, speed in speeds.items()
        if n > 1
    ]


def _speed(root: Path, processes: int) -> float:
    """Median tokens/s of the steps after the warm-up."""
    place = root / f"by-{processes}"
    paths = {"base": root / "model", "dataset": root / "dataset"}
    paths |= {"trained": place / "trained", "metrics": place / "metrics"}
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    _stage([*launcher, "-m", "components.sft"], CONFIG, paths)
    lines = (place / "metrics" / "metrics.jsonl").read_text().splitlines()[WARM_UP:]
    return statistics.median(json.loads(line)["tokens_per_second"] for line in lines)


def _stage(arguments: list[str], config: dict, paths: dict[str, Path]) -> None:
    flags = [part for name, path in paths.items() for part in (f"--{name}", str(path))]
    command = [sys.executable, *arguments, "--config", json.dumps(config), *flags]
    quiet = {**os.environ, "OMP_NUM_THREADS": "1"}
    code = processes.run(command, env=quiet, stdout=subprocess.DEVNULL)
    if code:
        raise subprocess.CalledProcessError(code, command)


def _checkpoints() -> Row:
    """The seconds for which training waits while a state is saved; writing it goes on beside."""
    state = {
        f"weight/{number}": torch.full((SIDE, SIDE), float(number)) for number in range(TENSORS)
    }
    with tempfile.TemporaryDirectory() as folder:
        config = Training(
            steps=10, batch_size=1, micro_batch_size=1, learning_rate=1e-4, checkpoint_uri=folder
        )
        checkpoints = Checkpoints("benchmark", config, {}, History())
        steps = itertools.count(1)

        def save() -> None:
            step = next(steps)
            checkpoints.save(step, iter(state.items()), {"step": step})

        (spent,) = seconds(save, before=checkpoints.settle, repeats=3)
        checkpoints.settle()
    return Row(
        work=f"training waits while {TENSORS * SIDE * SIDE * 4 / 1e9:.1f} GB are saved",
        against=f"{LIMIT:.0%} of {MINUTES} minutes",
        unit="s",
        baseline=LIMIT * 60 * MINUTES,
        ours=spent,
        bar=1.0,
    )
