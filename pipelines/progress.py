"""How far a run is: an answer of the server about it, told in stages.

The server lists every node of the Argo workflow: graphs, drivers, an `executor` for every stage,
each again with `(0)`, `(1)`, ... for its attempts, and beside them tasks without a name that the
launcher reports. A node's id is its workflow's name and the FNV-1a hash of its path in the
workflow, which tells whose `executor` it is. No field is taken for granted.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pipelines.stages import Stage

GOOD = "SUCCEEDED"
ENDED = (GOOD, "FAILED", "SKIPPED", "CANCELED")
WAITING, STARTING, RETRYING, CACHED = "WAITING", "STARTING", "RETRYING", "CACHED"
NOT_BEGUN = ""
DRIVER = "system-container-driver"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One stage as it is now."""

    stage: Stage
    state: str = NOT_BEGUN
    """A state of KFP's, or WAITING, STARTING, RETRYING, CACHED, NOT_BEGUN."""
    seconds: float | None = None
    """Since its start, up to its end."""
    attempt: int | None = None
    """Pods that it has had, the present one included; None where that cannot be told."""
    waiting: float | None = None
    """Seconds that a pod has waited which is this stage's, or that of a stage begun with it."""
    pod: str | None = None
    """Name of the newest pod."""
    error: str | None = None
    """The server's own word on the failure."""


def rows(run: Any, stages: Sequence[Stage], *, now: datetime | None = None) -> list[Row]:
    """Every stage of the pipeline in its order, as the answer `run` has it at the time `now`."""
    tree = _Tree(run, now or datetime.now(UTC))
    return [tree.row(stage) for stage in stages]


class _Tree:
    """The nodes of an answer, by their display names."""

    def __init__(self, run: Any, now: datetime) -> None:
        details = getattr(run, "run_details", None)
        self.tasks = [*(getattr(details, "task_details", None) or [])]
        self.now = now
        self.children = {
            child.pod_name
            for task in self.tasks
            for child in task.child_tasks or []
            if child.pod_name
        }
        self.workflow = next((name.rpartition("-")[0] for name in sorted(self.children)), "")

    def row(self, stage: Stage) -> Row:
        """The stage as it is."""
        task, driver = self.node(stage.key), self.node(f"{stage.key}-driver")
        if any(_state(self.node(graph)) == "SKIPPED" for graph in stage.graphs):
            return Row(stage=stage, state="SKIPPED")
        if task is not None and _state(task):
            return self._begun(stage, task)
        if driver is not None and _state(driver):
            return self._driven(stage, driver)
        return Row(stage=stage)

    def _begun(self, stage: Stage, task: Any) -> Row:
        state, seconds = _state(task), self.seconds(task)
        paths = self._pods(stage)
        if state == GOOD and seconds == 0:
            state, paths = CACHED, []
        attempts = self._newest_pods(task, len(paths))
        waits = [self.seconds(pod) or 0.0 for pod in attempts if _state(pod) == "PENDING"]
        if state == "RUNNING" and attempts:
            if len(waits) == len(attempts):
                state = WAITING
            elif all(_state(pod) == "FAILED" for pod in attempts):
                state = RETRYING
        return Row(
            stage=stage,
            state=state,
            seconds=seconds,
            attempt=len(paths) or None,
            waiting=max(waits, default=None) if state in (WAITING, "RUNNING") else None,
            pod=self._pod_name(stage.template, paths[-1]) if paths else None,
            error=_message(task),
        )

    def _driven(self, stage: Stage, driver: Any) -> Row:
        """A stage of which KFP's driver, a pod before its first, is all that there is."""
        attempts = self._last_attempt(f"{stage.key}-driver") or driver
        seconds = self.seconds(driver)
        is_waiting = _state(attempts) == "PENDING"
        state = {"FAILED": "FAILED", "PENDING": WAITING}.get(_state(attempts), STARTING)
        path = f"{self._parents(stage)}.{stage.key}-driver{self._index(f'{stage.key}-driver')}"
        return Row(
            stage=stage,
            state=state,
            seconds=seconds,
            waiting=seconds if is_waiting else None,
            pod=self._pod_name(DRIVER, path),
            error=_message(driver),
        )

    def node(self, name: str) -> Any:
        """The node of that name, or else its last attempt; None if the answer has neither."""
        plain = [task for task in self.tasks if task.display_name == name]
        return plain[0] if plain else self._last_attempt(name)

    def seconds(self, task: Any) -> float | None:
        """From the node's start to its end, or to now."""
        start, end = _time(task.start_time), _time(task.end_time)
        if start is None:
            return None
        return max(0.0, ((end or self.now) - start).total_seconds())

    def _last_attempt(self, name: str) -> Any:
        return next(
            (task for task in self.tasks if task.display_name == name + self._index(name)), None
        )

    def _index(self, name: str) -> str:
        """`(N)` of the last attempt at a node, nothing where Argo was told no retries at all."""
        attempt = re.compile(re.escape(name) + r"\((\d+)\)")
        matches = (attempt.fullmatch(task.display_name or "") for task in self.tasks)
        last = max((int(match[1]) for match in matches if match), default=None)
        return "" if last is None else f"({last})"

    def _parents(self, stage: Stage) -> str:
        """Path of the graph that the stage is in."""
        names = "".join(f".{name}{self._index(name)}" for name in ("root", *stage.graphs))
        return self.workflow + self._index(self.workflow) + names

    def _pods(self, stage: Stage) -> list[str]:
        """Paths of the stage's own pods, a pod for every attempt."""
        path = f"{self._parents(stage)}.{stage.key}{self._index(stage.key)}.executor"
        attempts: list[str] = []
        while self._id(f"{path}({len(attempts)})") in self.children:
            attempts.append(f"{path}({len(attempts)})")
        return attempts or ([path] if self._id(path) in self.children else [])

    def _newest_pods(self, task: Any, attempts: int) -> list[Any]:
        """The pods that may be the newest of a stage: its own, and those of stages begun with it.

        An answer has no id of a pod itself, only those of other nodes' children.
        """
        start = _time(task.start_time)
        if not attempts or start is None:
            return []
        names = {f"executor({attempts - 1})"} | ({"executor"} if attempts == 1 else set())
        pods = []
        for pod in self.tasks:
            begun = _time(pod.start_time)
            if pod.display_name not in names or pod.child_tasks or begun is None:
                continue
            if begun == start if attempts == 1 else begun > start:
                pods.append(pod)
        return pods

    def _id(self, path: str) -> str:
        return f"{self.workflow}-{_fnv1a(path)}"

    def _pod_name(self, template: str, path: str) -> str | None:
        return f"{self.workflow}-{template}-{_fnv1a(path)}" if self.workflow else None


def _state(task: Any) -> str:
    """The state, empty where the server gives none, as for a node that was never reached."""
    state = getattr(task, "state", None) or ""
    return "" if state == "RUNTIME_STATE_UNSPECIFIED" else str(state)


def _message(task: Any) -> str | None:
    return getattr(getattr(task, "error", None), "message", None)


def _time(value: Any) -> datetime | None:
    """A time; the years 1 and 1970 are how Go says that there is none."""
    return value if isinstance(value, datetime) and value.year > 1970 else None


def _fnv1a(text: str) -> int:
    """The 32-bit FNV-1a hash (http://www.isthe.com/chongo/tech/comp/fnv/)."""
    value = 0x811C9DC5
    for byte in text.encode():
        value = (value ^ byte) * 0x01000193 % 2**32
    return value
