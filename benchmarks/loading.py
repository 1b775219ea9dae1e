"""Loading 8 GB of bf16 weights in several files: ours against transformers' `from_pretrained`.

Both map the files and read nothing at first, so a second pair of figures reads every weight once;
ours refuses NaN on the way. Memory is the process's resident set, mapped pages of the files
included, once every weight was read. On a GPU the weights go to the device, and its memory counts.
"""

import tempfile
from pathlib import Path

import torch
from transformers.utils import logging

from benchmarks import checkpoints
from benchmarks.measure import Row, extra_bytes, seconds
from model import checkpoint
from model.llada import LLaDA

LAYERS = 14  # 8.2 GB


def rows(device: str) -> list[Row]:
    """Seconds and extra peak memory, warm page cache for both."""
    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "checkpoint"
        size = checkpoints.write(path, layers=LAYERS)

        def transformers() -> LLaDA:
            return LLaDA.from_pretrained(path, dtype=torch.bfloat16, device_map=device)

        def ours(check_finite: bool = False) -> LLaDA:
            return checkpoint.load(path, device=device, check_finite=check_finite)

        plain = seconds(transformers, ours, device=device)
        full = seconds(
            lambda: _read(transformers()), lambda: ours(check_finite=True), device=device
        )
        memory = extra_bytes(lambda: ours(check_finite=True), device)
    work = f"load {size / 1e9:.1f} GB"
    return [
        _row(work, *plain, bar=1.0),
        # Both read the same pages once; the bar leaves room for noise, not for a second pass.
        _row(f"{work}, every weight read", *full, bar=0.9),
        Row(
            work=f"{work}, peak memory",
            against="file size + 10%",
            unit="GB",
            baseline=1.1 * size / 1e9,
            ours=memory / 1e9,
            bar=1.0,
        ),
    ]


def _read(model: LLaDA) -> LLaDA:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.sum()
    return model


def _row(work: str, baseline: float, ours: float, *, bar: float) -> Row:
    return Row(
        work=work,
        against="transformers from_pretrained",
        unit="s",
        baseline=baseline,
        ours=ours,
        bar=bar,
    )
