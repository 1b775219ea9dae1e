"""A kind cluster with Kubeflow Pipelines, the tiny recipe on it, and its figures read back.

`python -m tests.kind.cluster up | test | down`, behind `make kind-up kind-test kind-down`. It needs
Docker, kind, the stages' image, and the internet; `test_cluster.py` runs every line of it against
programs that only record how they are called.
"""

import contextlib
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from components.container import IMAGE

ROOT = Path(__file__).parents[2]
NAME = "llada"
CONTEXT = f"kind-{NAME}"
NODE = (
    "kindest/node:v1.34.0@sha256:7416a61b42b1662ca6ca89f02028ac133a309a2a30ba309614e8ec94d976dc5a"
)
KFP = re.findall(r"ref=([\w.]+)", (ROOT / "manifests/kfp/kustomization.yaml").read_text())[0]
CRDS = f"github.com/kubeflow/pipelines/manifests/kustomize/cluster-scoped-resources?ref={KFP}"
SHORT = (
    "pretrain.steps=20",
    "sft.steps=20",
    "grpo.steps=2",
    "evaluate.limit=20",
    "release.accuracy=0",
)
EVALUATIONS = 3  # of the base, the tuned and the aligned model
WAYS = {
    "docker": "install Docker",
    "kind": "see https://kind.sigs.k8s.io, version 0.30.0",
    "kubectl": "make setup, then put .venv/bin on PATH",
}


def up() -> None:
    """Creates the cluster unless it is there, loads the image, installs Kubeflow Pipelines."""
    for program, way in WAYS.items():
        if shutil.which(program) is None:
            _end(f"{program} is not on PATH; {way}", 2)
    if subprocess.run(["docker", "image", "inspect", IMAGE], capture_output=True).returncode:
        _end(f"IMAGE={IMAGE} is not built here; make image-build", 2)
    if NAME not in _run("kind", "get", "clusters", quiet=True).split():
        configuration = str(ROOT / "tests/kind/kind.yaml")
        _run("kind", "create", "cluster", "--name", NAME, "--image", NODE, "--wait", "180s",
             "--config", configuration)  # fmt: skip
    _run("kind", "load", "docker-image", IMAGE, "--name", NAME)
    _kubectl("apply", "-k", CRDS)
    _kubectl("wait", "crd/applications.app.k8s.io", "--for=condition=established", "--timeout=60s")
    _kubectl("apply", "-k", str(ROOT / "manifests/kfp"))
    _kubectl("-n", "kubeflow", "wait", "deployment", "--all", "--for=condition=Available",
             "--timeout=900s")  # fmt: skip
    _kubectl("apply", "-k", str(ROOT / "manifests/overlays/kind"))


def test() -> None:
    """Submits the tiny recipe, follows it, and reads its accuracies back from the cluster."""
    with forwarded("svc/ml-pipeline-ui", 80) as url:
        run = _submit(url)
    figures = accuracies(run)
    if len(figures) != EVALUATIONS:
        _end(f"run {run}: {len(figures)} evaluations said their figures, not {EVALUATIONS}", 1)
    for correct, problems in figures:
        print(f"exact match: {correct} of {problems}")
    print(f"kind: run {run} passed")


def down() -> None:
    """Deletes the cluster."""
    _run("kind", "delete", "cluster", "--name", NAME)


@contextlib.contextmanager
def forwarded(service: str, port: int) -> Iterator[str]:
    """The address on this machine of a service in the cluster, on a port that is free."""
    command = ["kubectl", "--context", CONTEXT, "-n", "kubeflow", "port-forward", service]
    with subprocess.Popen([*command, f":{port}"], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            found = re.search(r"127\.0\.0\.1:(\d+)", line)
            if found is None:
                _end(f"port-forward {service}: {line.strip() or 'it ended at once'}", 1)
            # Its later lines, one a connection, must not fill the pipe.
            threading.Thread(target=process.stdout.read, daemon=True).start()
            yield f"http://127.0.0.1:{found[1]}"
        finally:
            process.terminate()


def _submit(url: str) -> str:
    """Runs the real command line; returns the id of a run that succeeded."""
    settings = [word for setting in SHORT for word in ("--set", setting)]
    command = [sys.executable, "-m", "pipelines.submit", "tiny", "--host", url, "--watch"]
    lines = []
    with subprocess.Popen(
        [*command, *settings], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line)
    if process.returncode:
        _end(f"submit ended with exit code {process.returncode}", process.returncode)
    return lines[0].strip().rsplit("/", 1)[-1]


def accuracies(run: str) -> list[tuple[int, int]]:
    """Correct answers and problems of every evaluation, as their pods said in their logs.

    KFP 2.17 has no call in its REST API that gives the figures of an artifact.
    """
    said = _kubectl("-n", "kubeflow", "logs", "-l", f"pipeline/runid={run}", "-c", "main",
                    "--tail=-1", "--max-log-requests=100", quiet=True)  # fmt: skip
    return [(int(a), int(b)) for a, b in re.findall(r"evaluate: (\d+) of (\d+) exact", said)]


def _kubectl(*arguments: str, quiet: bool = False) -> str:
    return _run("kubectl", "--context", CONTEXT, *arguments, quiet=quiet)


def _run(*command: str, quiet: bool = False) -> str:
    """Runs a program to its end and returns what it said; a failure ends this one."""
    if not quiet:
        print(f"+ {' '.join(command)}", flush=True)
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        _end(f"{' '.join(command)} ended with exit code {done.returncode}", 1)
    return done.stdout


def _end(message: str, code: int) -> NoReturn:
    print(f"kind: error: {message}", file=sys.stderr)
    raise SystemExit(code)


def main() -> None:
    """The command line."""
    steps = {"up": up, "test": test, "down": down}
    if len(sys.argv) != 2 or sys.argv[1] not in steps:
        _end(f"{' '.join(sys.argv[1:]) or 'nothing'}, allowed: {', '.join(steps)}", 2)
    os.chdir(ROOT)
    steps[sys.argv[1]]()


if __name__ == "__main__":
    main()
