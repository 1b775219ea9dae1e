"""Where the figures of a running stage go: `metrics.jsonl` always, and trackers on request.

    W&B      where WANDB_API_KEY is set
    MLflow   where MLFLOW_TRACKING_URI is set (`mlflow.py`)
    Trainer  the status of a TrainJob, where its nodes may report it (`trainer.py`)

The file is an output of the stage, and it fails with it. A tracker that fails is named once, and
training goes on without it.
"""

import dataclasses
import importlib
import json
import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar

from components import PROJECT
from components.artifact import METRICS
from components.failure import as_line, explain
from components.session import mlflow
from components.session.trainer import TrainerStatus

Record = dict[str, Any]
Result = TypeVar("Result")


@dataclasses.dataclass
class History:
    """The part of a run that its log and its checkpoints share.

    The log appends to it, a checkpoint saves it, and a resumed run starts with the saved one.
    """

    records: list[Record] = dataclasses.field(default_factory=list)
    """One for each step so far."""
    wandb_id: str = dataclasses.field(default_factory=lambda: uuid.uuid4().hex[:8])
    """The run's name at its trackers, under which a resumed run goes on."""


class Sink(Protocol):
    """Takes the record of every step from now on; those of a resumed run are there already."""

    def log(self, record: Record) -> None:
        """Takes a record."""

    def close(self, error: BaseException | None) -> None:
        """Ends the log of a run that came to its end, or was ended by an error."""


class File:
    """`metrics.jsonl`, a line a step; it begins with those of a resumed run."""

    def __init__(self, directory: Path, history: History) -> None:
        self.file = (directory / METRICS).open("w")
        self.file.writelines(json.dumps(record) + "\n" for record in history.records)
        self.file.flush()

    def log(self, record: Record) -> None:
        self.file.write(json.dumps(record) + "\n")
        self.file.flush()

    def close(self, error: BaseException | None) -> None:
        self.file.close()


class Wandb:
    """A run of Weights & Biases, by its own client."""

    def __init__(self, stage: str, config: dict[str, Any], history: History) -> None:
        wandb = importlib.import_module("wandb")  # takes a second: only where it is used
        self.run = wandb.init(
            project=PROJECT, name=stage, id=history.wandb_id, resume="allow", config=config
        )

    def log(self, record: Record) -> None:
        self.run.log(record, step=record.get("step"))

    def close(self, error: BaseException | None) -> None:
        self.run.finish(exit_code=0 if error is None else 1)


class Tracker:
    """A tracker that may fail: it is given up then, with one line."""

    def __init__(self, name: str, start: Callable[[], Sink]) -> None:
        self.name = name
        self.sink: Sink | None = None
        self.sink = self._try(start)

    def log(self, record: Record) -> None:
        if (sink := self.sink) is not None:
            self._try(lambda: sink.log(record))

    def close(self, error: BaseException | None) -> None:
        if (sink := self.sink) is not None:
            self._try(lambda: sink.close(error))

    def _try(self, act: Callable[[], Result]) -> Result | None:
        try:
            return act()
        except Exception as failure:  # of any kind: what its client raises is its own affair
            self.sink = None
            reason = as_line(explain(failure))
            print(f"{self.name}: {reason}; the stage goes on without it", flush=True)
            return None


def start(
    stage: str, directory: Path, config: dict[str, Any], history: History, *, total: int
) -> list[Sink]:
    """The sinks of a stage of `total` steps, all of them begun.

    Raises ValueError for a variable of the environment that no tracker can be reached by.
    """
    sinks: list[Sink] = [File(directory, history)]
    if os.environ.get("WANDB_API_KEY"):
        sinks.append(Tracker("W&B", lambda: Wandb(stage, config, history)))
    if (server := mlflow.server(os.environ)) is not None:
        sinks.append(
            Tracker("MLflow", lambda: mlflow.Mlflow(server, stage, config, history.wandb_id))
        )
    if (status := TrainerStatus.here(total)) is not None:
        sinks.append(status)
    return sinks
