"""The figures of a running stage: its sinks, and a progress bar or plain lines.

Of several processes the first one writes. The stage decides which figures there are.
"""

import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from accelerate import PartialState
from tqdm import tqdm

from components.session import sinks
from components.session.sinks import History

SHOWN = ("loss", "validation_loss", "reward", "accuracy", "tokens_per_second")
LINE_EVERY = 15.0  # seconds between plain lines where there is no terminal


class MetricsLog:
    """Called with one record a step; `summary` has the figures for the artifact's record."""

    def __init__(
        self,
        directory: Path,
        *,
        stage: str,
        total: int,
        config: dict[str, Any],
        history: History,
    ) -> None:
        """`history` has the records of a resumed run, which are written again."""
        self.stage, self.total = stage, total
        self.is_first = PartialState().is_main_process
        self.records, self.restored = history.records, len(history.records)
        self.sinks = (
            sinks.start(stage, directory, config, history, total=total) if self.is_first else []
        )
        is_quiet = not (self.is_first and sys.stderr.isatty())
        self.bar = tqdm(
            total=total, initial=self.restored, desc=stage, unit="step", disable=is_quiet
        )
        self.said, self.started = 0.0, time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __call__(self, record: dict[str, Any]) -> None:
        self.records.append(record)
        if not self.is_first:
            return
        for sink in self.sinks:
            sink.log(record)
        shown = {key: f"{record[key]:.4g}" for key in SHOWN if key in record}
        self.bar.set_postfix(shown, refresh=False)
        self.bar.update()
        if self.bar.disable:
            self._say(record, shown)

    def _say(self, record: dict[str, Any], shown: dict[str, str]) -> None:
        """Prints a line, unless the last one is recent and the run goes on."""
        now, step = time.monotonic(), record.get("step")
        if now - self.said <= LINE_EVERY and step != self.total:
            return
        self.said = now
        figures = " ".join(f"{key} {value}" for key, value in shown.items())
        done = len(self.records) - self.restored
        left = (now - self.started) * (self.total - len(self.records)) / done
        print(f"{self.stage} step {step}/{self.total} {figures} left {left:.0f}s", flush=True)

    def summary(self, *, last: int = 20) -> dict[str, Any]:
        """Steps, mean loss and reward of the last ones, tokens per second over the whole run."""
        tail = self._tail("loss", last)
        speeds = [record["tokens_per_second"] for record in self.records]
        mean_speed = len(speeds) / sum(1 / speed for speed in speeds) if speeds else None
        summary = {
            "steps": len(self.records),
            "loss": tail,
            "tokens": sum(record.get("tokens", 0) for record in self.records),
            "tokens_per_second": mean_speed,
        }
        reward = self._tail("reward", last)
        summary |= {} if reward is None else {"reward": reward}
        for name in ("skipped_steps", "validation_loss"):
            values = [record[name] for record in self.records if name in record]
            summary |= {name: values[-1]} if values else {}
        return summary

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
        for sink in self.sinks:
            sink.close(error)
