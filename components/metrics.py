"""The figures of a running stage: `metrics.jsonl`, a progress bar or plain lines, and W&B.

W&B logs when WANDB_API_KEY is set, and is off otherwise. What the figures are is the stage's.
"""

import json
import os
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import wandb
from tqdm import tqdm

from components.artifact import METRICS

SHOWN = ("loss", "reward", "accuracy", "tokens_per_second")
LINE_EVERY = 15.0  # seconds between plain lines where there is no terminal


class MetricsLog:
    """Called with one record a step; `summary` is what the stage's artifact record keeps."""

    def __init__(self, directory: Path, *, stage: str, total: int, config: dict[str, Any]) -> None:
        self.stage, self.total = stage, total
        self.file = (directory / METRICS).open("w")
        self.bar = tqdm(total=total, desc=stage, unit="step", disable=not sys.stderr.isatty())
        self.wandb = wandb.init(
            project="llada-reasoning",
            name=stage,
            config=config,
            mode="online" if os.environ.get("WANDB_API_KEY") else "disabled",
        )
        self.records: list[dict[str, Any]] = []
        self.said, self.started = 0.0, time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __call__(self, record: dict[str, Any]) -> None:
        self.records.append(record)
        self.file.write(json.dumps(record) + "\n")
        self.file.flush()
        self.wandb.log(record, step=record.get("step"))
        shown = {key: f"{record[key]:.4g}" for key in SHOWN if key in record}
        self.bar.set_postfix(shown, refresh=False)
        self.bar.update()
        now = time.monotonic()
        is_last = record.get("step") == self.total
        if self.bar.disable and (now - self.said > LINE_EVERY or is_last):
            self.said = now
            figures = " ".join(f"{key} {value}" for key, value in shown.items())
            left = (now - self.started) * (self.total / max(len(self.records), 1) - 1)
            line = f"{self.stage} step {record.get('step')}/{self.total} {figures} left {left:.0f}s"
            print(line, flush=True)

    def summary(self, *, last: int = 20) -> dict[str, Any]:
        """Steps, the mean loss of the last steps, tokens, and tokens per second over the run."""
        tail = [record["loss"] for record in self.records[-last:] if "loss" in record]
        speeds = [record["tokens_per_second"] for record in self.records]
        mean_speed = len(speeds) / sum(1 / speed for speed in speeds) if speeds else None
        return {
            "steps": len(self.records),
            "loss": sum(tail) / len(tail) if tail else None,
            "tokens": sum(record.get("tokens", 0) for record in self.records),
            "tokens_per_second": mean_speed,
        }

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.bar.close()
        self.file.close()
        self.wandb.finish(exit_code=0 if error is None else 1)
