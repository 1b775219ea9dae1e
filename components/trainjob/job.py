"""One TrainJob from its creation to its end: found or created, followed, deleted on SIGTERM.

Its log is asked for at every poll from where it stood, so that a broken connection loses nothing.
"""

import re
import time
from typing import Any

from components.failure import Failed
from components.trainjob.cluster import Cluster, Lost
from model.training.preemption import Interruption, Preempted

PATIENCE = 60  # questions in a row that may go unanswered before the job is given up on
STAMP = re.compile(r"\d{4}-\d\d-\d\dT[\d:]{8}(\.\d+)?Z")
DELETIONS = 5  # tries to delete a job within the seconds that a pod has for its end
SLICE = 0.1  # seconds after which a stop is noticed


class Job:
    """A job by its name. `stop` tells whether this process was told to end."""

    def __init__(self, cluster: Cluster, name: str, *, poll: float, stop: Interruption) -> None:
        self.cluster, self.name, self.poll, self.stop = cluster, name, poll, stop
        self.state = self.pod = self.last = ""

    def start(self, manifest: dict[str, Any]) -> None:
        """Creates the job, or takes over the one that an earlier try of this step has left.

        One that failed is replaced: that is what a retry is for.
        """
        for _ in range(PATIENCE):
            if self.cluster.create(manifest):
                return self._say("created")
            found = self.cluster.get(self.name)
            if found is None:
                continue
            if _condition(found, "Failed") is None and not found["metadata"].get(
                "deletionTimestamp"
            ):
                return self._say("is there already, and is followed")
            self._say("of an earlier try has failed or is going, and is replaced")
            self.cluster.delete(self.name)
            self._wait()
        raise Failed(f"trainjob {self.name} of an earlier try does not go away; delete it by hand")

    def follow(self) -> None:
        """Prints state and log until the job is complete. Raises Failed with its message."""
        lost = 0
        while True:
            try:
                job = self.cluster.get(self.name)
                if job is None:
                    raise Failed(f"trainjob {self.name} was deleted by somebody else")
                self._show(job)
                self._print_log()
                lost = 0
            except Lost as error:
                lost += 1
                if lost == PATIENCE:
                    raise Failed(f"{error}; the job may go on, and a retry follows it") from None
                self._say(str(error))
                self._wait()
                continue
            if _condition(job, "Complete"):
                return
            if failure := _condition(job, "Failed"):
                said = failure.get("message") or failure.get("reason")
                raise Failed(
                    f"trainjob {self.name} failed: {said}; "
                    f"try: kubectl -n {self.cluster.namespace} describe trainjob {self.name}"
                )
            self._wait()

    def _wait(self) -> None:
        """Until the next question. Deletes the job and raises Preempted when told to stop."""
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
        """Deletes the job. Raises Failed where the server does not answer."""
        for attempt in range(1, DELETIONS + 1):
            try:
                return self.cluster.delete(self.name)
            except Lost as error:
                if attempt == DELETIONS:
                    raise Failed(f"{error}; trainjob {self.name} may go on") from None
                time.sleep(min(self.poll, 1.0))

    def _show(self, job: dict[str, Any]) -> None:
        """Says what has changed: conditions, and how many of the job's parts are ready."""
        conditions = job.get("status", {}).get("conditions") or []
        words = [entry["type"].lower() for entry in conditions if entry["status"] == "True"]
        parts = job.get("status", {}).get("jobsStatus") or []
        if not words and any(part.get("ready") for part in parts):
            words = ["running"]
        state = " ".join(words) or "waiting for its nodes"
        if state != self.state:
            self.state = state
            self._say(state)

    def _print_log(self) -> None:
        """Prints what the first node has written since; a new pod of it from its start."""
        found = self.cluster.log(self.name, self.pod, self.last)
        if found is None:
            return
        pod, text = found
        if pod != self.pod:
            self.pod, self.last = pod, ""
        for line in text.splitlines():
            stamp, _, words = line.partition(" ")
            # What the kubelet itself has to say has no timestamp.
            if STAMP.fullmatch(stamp) and _nanoseconds(stamp) > _nanoseconds(self.last):
                print(f"{stamp[:19]}Z {words}", flush=True)
                self.last = stamp

    def _say(self, words: str) -> None:
        print(f"trainjob {self.name} {words}", flush=True)


def _condition(job: dict[str, Any], kind: str) -> dict[str, Any] | None:
    """The job's condition of a kind where it is true."""
    conditions = job.get("status", {}).get("conditions") or []
    return next((c for c in conditions if c["type"] == kind and c["status"] == "True"), None)


def _nanoseconds(stamp: str) -> str:
    """An RFC 3339 timestamp in UTC as text that sorts: Kubernetes leaves trailing zeros out."""
    seconds, _, fraction = stamp.rstrip("Z").partition(".")
    return f"{seconds}.{fraction:0<9}"
