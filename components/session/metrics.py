"""The figures of a running stage: `metrics.jsonl`, a progress bar or plain lines, and W&B.

W&B logs when WANDB_API_KEY is set, and is off otherwise. Of several processes the first writes.
What the figures are is the stage's.
"""

import importlib
import json
import os
import sys
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from accelerate import PartialState
from tqdm import tqdm

from components import PROJECT
from components.artifact import METRICS

SHOWN = ("loss", "validation_loss", "reward", "accuracy", "tokens_per_second")
LINE_EVERY = 15.0  # seconds between plain lines where there is no terminal


class MetricsLog:
    """Called with one record a step; `summary` is what the stage's artifact record keeps.

    A resumed run hands in the `records` so far and the id of its W&B run.
    """

    def __init__(
        self,
        directory: Path,
        *,
        stage: str,
        total: int,
        config: dict[str, Any],
        records: Sequence[dict[str, Any]] = (),
        wandb_id: str | None = None,
    ) -> None:
        self.stage, self.total = stage, total
        self.is_first = PartialState().is_main_process
        self.records, self.restored = list(records), len(records)
        self.file = (directory / METRICS if self.is_first else Path(os.devnull)).open("w")
        self.file.writelines(json.dumps(record) + "\n" for record in records)
        self.file.flush()
        is_quiet = not (self.is_first and sys.stderr.isatty())
        self.bar = tqdm(
            total=total, initial=self.restored, desc=stage, unit="step", disable=is_quiet
        )
        self.wandb_id = wandb_id or uuid.uuid4().hex[:8]
        self.wandb: Any = None
        if self.is_first and os.environ.get("WANDB_API_KEY"):
            wandb = importlib.import_module("wandb")  # takes a second, which others are spared

            self.wandb = wandb.init(
                project=PROJECT,
                name=stage,
                id=self.wandb_id,
                resume="allow",
                config=config,
            )
        self.said, self.started = 0.0, time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __call__(self, record: dict[str, Any]) -> None:
        self.records.append(record)
        if not self.is_first:
            return
        self.file.write(json.dumps(record) + "\n")
        self.file.flush()
        if self.wandb is not None:
            self.wandb.log(record, step=record.get("step"))
        shown = {key: f"{record[key]:.4g}" for key in SHOWN if key in record}
        self.bar.set_postfix(shown, refresh=False)
        self.bar.update()
        now = time.monotonic()
        is_last = record.get("step") == self.total
        if self.bar.disable and (now - self.said > LINE_EVERY or is_last):
            self.said = now
            figures = " ".join(f"{key} {value}" for key, value in shown.items())
            done = len(self.records) - self.restored
            left = (now - self.started) * (self.total - len(self.records)) / done
            line = f"{self.stage} step {record.get('step')}/{self.total} {figures} left {left:.0f}s"
            print(line, flush=True)

    def summary(self, *, last: int = 20) -> dict[str, Any]:
        """Steps, mean loss and reward of the last ones, tokens per second over the whole run."""
        tail = self._tail("loss", last)
        speeds = [record["tokens_per_second"] for record in self.records]
        mean_speed = len(speeds) / sum(1 / speed for speed in speeds) if speeds else None
        found = {
            "steps": len(self.records),
            "loss": tail,
            "tokens": sum(record.get("tokens", 0) for record in self.records),
            "tokens_per_second": mean_speed,
        }
        reward = self._tail("reward", last)
        found |= {} if reward is None else {"reward": reward}
        for name in ("skipped_steps", "validation_loss"):
            known = [record[name] for record in self.records if name in record]
            found |= {name: known[-1]} if known else {}
        return found

    def _tail(self, name: str, last: int) -> float | None:
        """The mean of a figure over the last records that have it."""
        values = [record[name] for record in self.records[-last:] if name in record]
        return sum(values) / len(values) if values else None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.bar.close()
        self.file.close()
        if self.wandb is not None:
            self.wandb.finish(exit_code=0 if error is None else 1)
