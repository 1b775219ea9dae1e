"""The progress of a stage in the status of its TrainJob, where Kubeflow Trainer offers that.

With its feature gate TrainJobStatus, Trainer gives the pods of a job an address, a certificate and
a token, and shows what they send in `status.trainerStatus`. Training never waits for it.
"""

import json
import os
import ssl
import time
import urllib.request
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from components.failure import as_line, explain

SERVER = "KUBEFLOW_TRAINER_SERVER_URL"
CERTIFICATE = "KUBEFLOW_TRAINER_SERVER_CA_CERT"
TOKEN = "KUBEFLOW_TRAINER_SERVER_TOKEN"
EVERY = 15.0  # seconds between two reports
TIMEOUT = 10.0  # seconds


class TrainerStatus:
    """Takes the record of each step, and reports one now and then from a thread of its own."""

    def __init__(self, server: str, total: int) -> None:
        """`total` steps are the whole run."""
        self.server, self.total = server, total
        self.pool = ThreadPoolExecutor(1, thread_name_prefix="trainer-status")
        self.sending: Future[None] | None = None
        self.sent = -EVERY
        self.begun: tuple[float, int] | None = None  # when the first record came, and its step
        self.has_failed = False

    @classmethod
    def here(cls, total: int) -> Self | None:
        """The status of the job to which this process belongs, or None where there is none."""
        server = os.environ.get(SERVER)
        return cls(server, total) if server else None

    def log(self, record: dict[str, Any]) -> None:
        """Reports a record unless the last report is recent or under way; the last step always."""
        now, is_last = time.monotonic(), record["step"] == self.total
        self.begun = self.begun or (now, record["step"])
        is_busy = self.sending is not None and not self.sending.done()
        if is_last or (now - self.sent >= EVERY and not is_busy):
            self.sent = now
            self.sending = self.pool.submit(self._send, self._status(record, now))

    def close(self, error: BaseException | None = None) -> None:
        """Waits for a report that is under way, at most as long as its time limit."""
        self.pool.shutdown(wait=True)

    def _status(self, record: dict[str, Any], now: float) -> dict[str, Any]:
        assert self.begun is not None
        begun, first = self.begun
        step = record["step"]
        figures = {name: value for name, value in record.items() if isinstance(value, int | float)}
        status: dict[str, Any] = {
            "progressPercentage": 100 * step // self.total,
            "metrics": [{"name": name, "value": f"{value:g}"} for name, value in figures.items()],
            "lastUpdatedTime": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
        if step > first or step == self.total:
            left = (now - begun) / max(step - first, 1) * (self.total - step)
            status["estimatedRemainingSeconds"] = round(left)
        return {"trainerStatus": status}

    def _send(self, status: dict[str, Any]) -> None:
        """Sends a report. The first failure is printed, and none ends the training."""
        try:
            token = Path(os.environ[TOKEN]).read_text().strip()  # Kubernetes renews the file
            headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
            body = json.dumps(status).encode()
            request = urllib.request.Request(self.server, data=body, headers=headers)
            context = ssl.create_default_context(cafile=os.environ.get(CERTIFICATE))
            with urllib.request.urlopen(request, timeout=TIMEOUT, context=context):
                pass
        except (OSError, KeyError, ValueError) as error:
            if not self.has_failed:
                line = f"no progress in the TrainJob's status: {self.server}: {explain(error)}"
                print(as_line(line), flush=True)
            self.has_failed = True
