"""One TrainJob from its creation to its end: created or taken over, followed, deleted on SIGTERM.

Every poll requests the log from the last line that was printed, so that a broken connection loses
nothing.
"""

import re
import time
from typing import Any

from components.failure import Failed, as_line
from components.trainjob.cluster import Cluster, Unavailable
from model.training.preemption import Interruption, Preempted

PATIENCE = 60  # failed requests in a row, or tries to replace a job, before this stage gives up
STAMP = re.compile(r"\d{4}-\d\d-\d\dT[\d:]{8}(\.\d+)?Z")
DELETIONS = 5  # tries to delete a job; a pod has 30 seconds between SIGTERM and SIGKILL
SLICE = 0.1  # seconds between two looks for a request to stop


class Job:
    """A job, by its name. `stop` tells whether this process was asked to end."""

    def __init__(self, cluster: Cluster, name: str, *, poll: float, stop: Interruption) -> None:
        self.cluster, self.name, self.poll, self.stop = cluster, name, poll, stop
        self.state = self.pod = self.last = ""  # `last`: timestamp of the last line of the log

    def start(self, manifest: dict[str, Any]) -> None:
        """Creates the job, or takes over the job that an earlier try of this step has left.

        A job that failed is replaced, since the retry of a step means to try again.
        """
        for _ in range(PATIENCE):
            if self.cluster.create(manifest):
                return self._say("created")
            job = self.cluster.get(self.name)
            if job is None:
                continue
            is_going = bool(job["metadata"].get("deletionTimestamp"))
            if _condition(job, "Failed") is None and not is_going:
                return self._say("is there already, and is followed")
            self._say("of an earlier try has failed or is going, and is replaced")
            self.cluster.delete(self.name)
            self._wait()
        raise Failed(f"trainjob {self.name} of an earlier try does not go away; delete it by hand")

    def follow(self) -> None:
        """Prints state and log until the job is complete. Raises Failed if it fails."""
        failures = 0  # in a row
        while True:
            try:
                job = self.cluster.get(self.name)
                if job is None:
                    raise Failed(f"trainjob {self.name} was deleted by somebody else")
                self._show(job)
                self._print_log()
                failures = 0
            except Unavailable as error:
                failures += 1
                if failures == PATIENCE:
                    raise Failed(f"{error}; the job may go on, and a retry follows it") from None
                self._say(str(error))
                self._wait()
                continue
            if _condition(job, "Complete"):
                return
            if failure := _condition(job, "Failed"):
                message = failure.get("message") or failure.get("reason")
                raise Failed(
                    f"trainjob {self.name} failed: {message}; "
                    f"try: kubectl -n {self.cluster.namespace} describe trainjob {self.name}"
                )
            self._wait()

    def _wait(self) -> None:
        """Waits until the next request. Raises Preempted as `check_stop` does."""
        until = time.monotonic() + self.poll
        while time.monotonic() < until:
            self.check_stop()
            time.sleep(min(SLICE, self.poll))
        self.check_stop()

    def check_stop(self) -> None:
        """Deletes the job and raises Preempted when this process was told to stop."""
        if self.stop.is_requested:
            self.delete()
            raise Preempted(f"trainjob {self.name} was deleted")

    def delete(self) -> None:
        """Deletes the job. Raises Failed if the server does not answer."""
        for attempt in range(1, DELETIONS + 1):
            try:
                return self.cluster.delete(self.name)
            except Unavailable as error:
                if attempt == DELETIONS:
                    raise Failed(f"{error}; trainjob {self.name} may go on") from None
                time.sleep(min(self.poll, 1.0))

    def _show(self, job: dict[str, Any]) -> None:
        """Prints the job's state if it has changed: its true conditions, or whether nodes run."""
        status = job.get("status", {})
        conditions = status.get("conditions") or []
        names = [entry["type"].lower() for entry in conditions if entry["status"] == "True"]
        if not names and any(entry.get("ready") for entry in status.get("jobsStatus") or []):
            names = ["running"]
        state = " ".join(names) or "waiting for its nodes"
        if state != self.state:
            self.state = state
            self._say(state)

    def _print_log(self) -> None:
        """Prints the first node's new lines; the log of a new pod is printed from its start."""
        log = self.cluster.log(self.name, self.pod, self.last)
        if log is None:
            return
        pod, text = log
        if pod != self.pod:
            self.pod, self.last = pod, ""
        for line in text.splitlines():
            stamp, _, content = line.partition(" ")
            # Lines of the kubelet itself have no timestamp.
            if STAMP.fullmatch(stamp) and _sortable(stamp) > _sortable(self.last):
                print(f"{stamp[:19]}Z {content}", flush=True)
                self.last = stamp

    def _say(self, text: str) -> None:
        print(as_line(f"trainjob {self.name} {text}"), flush=True)


def _condition(job: dict[str, Any], kind: str) -> dict[str, Any] | None:
    """The job's condition of a kind, or None if it has none or it is not true."""
    conditions = job.get("status", {}).get("conditions") or []
    matches = (entry for entry in conditions if (entry["type"], entry["status"]) == (kind, "True"))
    return next(matches, None)


def _sortable(stamp: str) -> str:
    """An RFC 3339 timestamp in UTC with all nine decimals: Kubernetes drops trailing zeros."""
    seconds, _, fraction = stamp.rstrip("Z").partition(".")
    return f"{seconds}.{fraction:0<9}"
