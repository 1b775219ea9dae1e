"""What became of the attempts at a run on a cluster, which starts a stage that failed once more.

An error that will come again is remembered beside the run's states (`places`) and ends the next
attempt at once, with the words of the first: bad input before the first step, an error that came
twice with no new state between, and deaths without a word with no new state between. It holds for
one task of a pipeline and one image: another run, another configuration or a mended image is tried.
What is not the input's fault is forgotten after an hour, when a person, and not the cluster, tries
again.
"""

import contextlib
import dataclasses
import functools
import os
import time
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

from components import artifact, storage
from components.failure import Failed, as_line, explain, is_of_the_system
from components.session import places
from model.training.config import Resumable
from model.training.preemption import Preempted

CLUSTER = "KUBERNETES_SERVICE_HOST"  # Kubernetes gives it to every container
LONG = 3600.0  # seconds
DEATHS = 3  # without a word and without a new state, as by a machine short of memory
Run = Callable[..., None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Memory:
    """What is remembered of the attempts that began at the newest state."""

    task: list[str | None]
    """An output's path, which holds the ids of KFP's run and task; the image, and its commit."""
    step: int
    """Step of the newest state."""
    is_open: bool = False
    """Whether the last attempt has not told its end."""
    deaths: int = 0
    """How many in a row have not."""
    error: str | None = None
    """The message of the first that failed."""
    is_final: bool = False
    """Whether the next one would fail too."""
    is_input: bool = False
    """Whether it is the input that is bad, exit code 2."""
    written: float = 0.0
    """Seconds since 1970."""


KINDS: dict[str, Any] = {**typing.get_type_hints(Memory), "task": list}  # for isinstance


def remembered(run: Run) -> Run:
    """A stage's `run` that ends at once where an earlier attempt shows that it would fail again.

    Raises ValueError or Failed with the first one's message. It does nothing outside a cluster, and
    nothing without a `checkpoint_uri`, where there is no place to remember anything.
    """
    hints = typing.get_type_hints(run, include_extras=True)
    inputs = [name for name, hint in hints.items() if {"input", "inputs"} & {*_words(hint)}]
    stage = run.__module__.split(".")[-2]

    @functools.wraps(run)
    def guarded(config: Resumable, **paths: Any) -> None:
        is_first = os.environ.get("RANK", "0") == "0"
        if config.checkpoint_uri is None or not is_first or not os.environ.get(CLUSTER):
            return run(config, **paths)
        fingerprints = _fingerprints([paths.get(name) for name in inputs])
        name = places.run_of(stage, dataclasses.asdict(config), fingerprints)
        location = storage.join(config.checkpoint_uri, name)
        with _Attempt(location, paths["metrics"]):
            run(config, **paths)

    return guarded


def _words(hint: Any) -> list[str]:
    """The role of a path, as `artifact` annotates it."""
    return [argument for argument in typing.get_args(hint) if isinstance(argument, str)]


def _fingerprints(values: list[Any]) -> list[str]:
    """Of all inputs: a path each, several, or none."""
    several = [value if isinstance(value, tuple) else (value,) for value in values]
    paths = [path for each in several for path in each if path is not None]
    return [artifact.read(path)["fingerprint"] for path in paths]


class _Attempt(contextlib.AbstractContextManager):
    """One attempt: from what is remembered of those before to what the next one should know."""

    def __init__(self, location: str, metrics: Path) -> None:
        self.location, self.log = location, metrics / artifact.METRICS
        self.file = storage.join(location, places.ATTEMPTS)
        self.task = [str(metrics.absolute()), os.environ.get("IMAGE"), artifact.commit()]

    def __enter__(self) -> None:
        memory = self._recall()
        if memory.is_open:
            memory = dataclasses.replace(memory, deaths=memory.deaths + 1)
        if memory.deaths >= DEATHS:
            words = f"{DEATHS} attempts in a row were killed before they saved a state"
            error = f"{words} after step {memory.step}; did they run out of memory?"
            memory = dataclasses.replace(memory, error=error, is_final=True)
        if memory.is_final:
            kind = ValueError if memory.is_input else Failed
            raise kind(
                f"{memory.error} (as in an earlier attempt; delete {self.file} to try again)"
            )
        self._remember(dataclasses.replace(memory, is_open=True))
        self.before = memory

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: Any
    ) -> None:
        if isinstance(error, Preempted) or not isinstance(error, Exception):
            self._try(lambda: storage.delete(self.file))
        else:
            self._try(lambda: self._remember(self._ending(error)))

    def _ending(self, error: Exception) -> Memory:
        """What an error leaves: it will come again if it is the input's, or nothing was gained."""
        step, before = _newest(self.location), self.before
        if isinstance(error, storage.Unavailable):
            return dataclasses.replace(before, step=step, is_open=False, deaths=0)
        is_again = before.error is not None and before.step == step
        has_begun = self.log.is_file() and self.log.stat().st_size > 0
        is_input = isinstance(error, ValueError | FileNotFoundError) and not has_begun
        return Memory(
            task=self.task,
            step=step,
            error=before.error if is_again else as_line(explain(error)),
            is_final=is_again or is_input,
            is_input=before.is_input if is_again else is_input,
        )

    def _recall(self) -> Memory:
        """What is remembered of this task's attempts at the newest state; else nothing."""
        new = Memory(task=self.task, step=_newest(self.location))
        try:
            memory = Memory(**storage.read_json(self.file))
        except (FileNotFoundError, TypeError):
            return new
        if not all(isinstance(getattr(memory, name), kind) for name, kind in KINDS.items()):
            return new  # somebody wrote it by hand
        is_old = not memory.is_input and time.time() - memory.written > LONG
        is_own = (memory.task, memory.step) == (new.task, new.step)
        return memory if is_own and not is_old else new

    def _remember(self, memory: Memory) -> None:
        now = dataclasses.replace(memory, written=time.time())
        storage.write_json(self.file, dataclasses.asdict(now))

    def _try(self, note: Callable[[], None]) -> None:
        """The stage ends as it does, whether or not that can be noted."""
        try:
            note()
        except Exception as failure:
            if not (isinstance(failure, storage.StorageError) or is_of_the_system(failure)):
                raise
            print(f"{self.file}: {as_line(explain(failure))}", flush=True)


def _newest(location: str) -> int:
    return max(places.steps(location), default=0)
