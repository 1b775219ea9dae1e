"""The last lines of the pods' logs, where the server hands them out, and the commands for more.

KFP's UI gives the log of a pod, or the copy that Argo archived once the pod is gone; the API server
itself gives the same to whoever reaches it without the UI. Neither is promised to be there:
`executor_logs` reads the copy that KFP's launcher keeps.
"""

import contextlib
import functools
import queue
import re
import threading
import time
import urllib.parse
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from kfp import Client

from components.failure import LONGEST, redacted
from pipelines.client import request
from pipelines.progress import Row

Source = Callable[[], list[str]]
LINES = 20
BYTES = 64 << 10  # of the end of a log, which hold more lines than are shown
SECONDS = 8.0  # that a log may take in all
EVERY = 30.0  # seconds between two looks at the log of a running stage
FIGURES = re.compile(r"\w+ (step \d+/\d+ .*)")  # as `components.session.metrics` prints them


class Newest:
    """The newest line of every running stage: its figures, or what it printed last."""

    def __init__(self, client: Client, namespace: str) -> None:
        self.client, self.namespace = client, namespace
        self.lines: dict[str, str] = {}
        """By the key of the stage; none where no log can be read."""
        self._looked: dict[str, float] = {}

    def look(self, run: Any, rows: Sequence[Row]) -> None:
        """Reads the logs of the stages that run, each every EVERY seconds."""
        running = {row.stage.key: row.pod for row in rows if row.state == "RUNNING" and row.pod}
        self.lines = {key: line for key, line in self.lines.items() if key in running}
        now = time.monotonic()
        for key, pod in running.items():
            if now - self._looked.get(pod, -EVERY) < EVERY:
                continue
            self._looked[pod] = now
            lines = [line for line in tail(self.client, run, pod, self.namespace) if line.strip()]
            figures = [match[1] for match in map(FIGURES.fullmatch, lines) if match]
            if lines:
                self.lines[key] = (figures or lines)[-1]


def tail(client: Client, run: Any, pod: str, namespace: str) -> list[str]:
    """The last LINES lines that a pod of the run wrote; none where no log can be read."""
    return first(sources(client, run, pod, namespace))


def sources(client: Client, run: Any, pod: str, namespace: str) -> list[Source]:
    """Where the log of a pod may be read, the likeliest first."""
    names = {"podname": pod, "runid": run.run_id, "podnamespace": namespace}
    if isinstance(run.created_at, datetime):
        names["createdat"] = f"{run.created_at:%Y-%m-%d}"  # Argo archives by the workflow's day
    paths = (
        f"/k8s/pod/logs?{urllib.parse.urlencode(names)}",
        f"/apis/v1alpha1/runs/{run.run_id}/nodes/{pod}/log",
    )
    # A server without this address answers with the page of its UI, or with an error as JSON.
    return [functools.partial(answer, client, path, ("text/plain",)) for path in paths]


def answer(client: Client, path: str, kinds: Sequence[str]) -> list[str]:
    """The last lines of what the server has at an address, if it is of one of these types."""
    reply = request(client, path)
    if reply.headers.get("Content-Type", "").partition(";")[0] not in kinds:
        return []
    end = b""
    for part in reply.stream(BYTES):
        end = (end + part)[-BYTES:]
    return last_lines(end)


def last_lines(log: bytes) -> list[str]:
    """The last LINES lines without secrets, nor any sign that could steer a terminal."""
    lines = log.decode(errors="replace").splitlines()[-LINES:]
    return [_printable(redacted(line)[:LONGEST]) for line in lines]


def _printable(line: str) -> str:
    return "".join(sign if sign.isprintable() or sign == "\t" else " " for sign in line)


def first(sources: Sequence[Source]) -> list[str]:
    """The lines of the first source that has any; all are asked at once, and given SECONDS.

    No source is worth a failure: whatever keeps one from its answer, it has none.
    """
    end = time.monotonic() + SECONDS
    replies = [_begin(source) for source in sources]
    for reply in replies:
        with contextlib.suppress(queue.Empty):
            if lines := reply.get(timeout=max(0.0, end - time.monotonic())):
                return lines
    return []


def _begin(source: Source) -> queue.SimpleQueue[list[str]]:
    """Where the lines of a source will be; a thread that never ends is no hindrance to the end."""
    reply: queue.SimpleQueue[list[str]] = queue.SimpleQueue()

    def read() -> None:
        try:
            reply.put(source())
        except Exception:  # another version of any of the servers may answer anything at all
            reply.put([])

    threading.Thread(target=read, daemon=True).start()
    return reply


def why(run: str, pod: str | None, namespace: str) -> str:
    """The command that tells why a pod waits, or failed before it wrote anything."""
    return f"kubectl -n {namespace} describe pod {pod or f'-l pipeline/runid={run}'}"


def more(run: str, pod: str | None, namespace: str) -> str:
    """The command that shows the log of a pod, or of all pods of the run."""
    which = f"{pod} -c main" if pod else f"-l pipeline/runid={run} -c main --prefix --tail={LINES}"
    return f"kubectl -n {namespace} logs {which}"
