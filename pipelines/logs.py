"""The last lines of the pods' logs, where the server hands them out, and the commands for more.

KFP's UI gives the log of a pod, or the copy that Argo archived once the pod is gone; the API server
itself gives the same to whoever reaches it without the UI. Neither is promised to be there.
"""

import re
import time
import urllib.parse
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

import kfp_server_api
import urllib3
from kfp import Client

from pipelines.progress import Row

LINES = 20
EVERY = 30.0  # seconds between two looks at the log of a running stage
FIGURES = re.compile(r"\w+ (step \d+/\d+ .*)")  # as `components.session.metrics` prints them
CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # a log must not steer a terminal


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
    for path in _addresses(run, pod, namespace):
        try:
            answer = client._run_api.api_client.call_api(
                path, "GET", auth_settings=["Bearer"], _preload_content=False, _request_timeout=20
            )
        except (urllib3.exceptions.HTTPError, kfp_server_api.ApiException):
            continue
        # A server without this address answers with the page of its UI, or with an error as JSON.
        reply = answer[0] if isinstance(answer, tuple) else answer
        if reply.headers.get("Content-Type", "").startswith("text/plain"):
            lines = reply.data.decode(errors="replace").splitlines()[-LINES:]
            if lines:
                return [CONTROLS.sub(" ", line) for line in lines]
    return []


def _addresses(run: Any, pod: str, namespace: str) -> Iterator[str]:
    names = {"podname": pod, "runid": run.run_id, "podnamespace": namespace}
    if isinstance(run.created_at, datetime):
        names["createdat"] = f"{run.created_at:%Y-%m-%d}"  # Argo archives by the workflow's day
    yield f"/k8s/pod/logs?{urllib.parse.urlencode(names)}"
    yield f"/apis/v1alpha1/runs/{run.run_id}/nodes/{pod}/log"


def why(run: str, pod: str | None, namespace: str) -> str:
    """The command that tells why a pod waits, or failed before it wrote anything."""
    return f"kubectl -n {namespace} describe pod {pod or f'-l pipeline/runid={run}'}"


def more(run: str, pod: str | None, namespace: str) -> str:
    """The command that shows the log of a pod, or of all pods of the run."""
    which = f"{pod} -c main" if pod else f"-l pipeline/runid={run} -c main --prefix --tail={LINES}"
    return f"kubectl -n {namespace} logs {which}"
