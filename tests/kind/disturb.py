"""What a cluster does to a run now and then: a training process killed, a pod deleted.

Both happen once, to the first training stages that are seen running. A run that survives them has
the models of one that nothing disturbed.
"""

import json
import subprocess
import threading
from collections.abc import Sequence

POLL = 2.0  # seconds
STAGE = """
import os, pathlib, sys
from components import prestop
for process in prestop.stages():
    command = pathlib.Path(f"/proc/{process}/cmdline").read_bytes().split(bytes(1))
    name = command[command.index(b"-m") + 1].decode().removeprefix("components.")
    if name in sys.argv[2:]:
        print(name, flush=True)
        if sys.argv[1] == "kill":
            os.kill(process, 9)
"""
TRAINING = ("pretrain", "sft", "dpo", "grpo")


class Disturbance:
    """Within the block the pods of a run are disturbed, from the moment that it is known."""

    def __init__(self, kubectl: Sequence[str], namespace: str) -> None:
        self.kubectl = [*kubectl, "-n", namespace]
        self.done: list[str] = []
        """What was done, a line each."""
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def begin(self, run: str) -> None:
        """Disturbs the pods of this run in a thread of its own."""
        self._thread = threading.Thread(target=self._disturb, args=(run,), daemon=True)
        self._thread.start()

    def end(self) -> list[str]:
        """What was done."""
        self._over.set()
        if self._thread is not None:
            self._thread.join()
        return self.done

    def _disturb(self, run: str) -> None:
        killed = deleted = None
        while (killed is None or deleted is None) and not self._over.wait(POLL):
            for pod in self._pods(run):
                if killed is None:
                    killed = self._stage(pod, "kill")
                    if killed is not None:
                        self.done.append(f"the process of {killed} was killed in {pod}")
                elif deleted is None and self._stage(pod, "look", without=killed) is not None:
                    deleted = pod
                    self._run("delete", "pod", pod, "--wait=false")
                    self.done.append(f"pod {pod} was deleted")

    def _pods(self, run: str) -> list[str]:
        label = f"pipeline/runid={run}"
        answer = self._run("get", "pods", "-l", label, "-o", "json")
        pods = json.loads(answer)["items"] if answer else []
        running = [pod for pod in pods if pod.get("status", {}).get("phase") == "Running"]
        names = [pod["metadata"]["name"] for pod in running]
        return [name for name in names if "container-impl" in name]

    def _stage(self, pod: str, deed: str, *, without: str | None = None) -> str | None:
        """The training stage of the pod; None where there is none, or it has not begun."""
        stages = [stage for stage in TRAINING if stage != without]
        answer = self._run("exec", pod, "-c", "main", "--", "python", "-c", STAGE, deed, *stages)
        return answer.split()[0] if answer.split() else None

    def _run(self, *arguments: str) -> str:
        command = [*self.kubectl, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        return "" if done.returncode else done.stdout
