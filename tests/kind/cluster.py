"""A kind cluster with Kubeflow Pipelines, or another one, and the tiny recipe on it.

`python -m tests.kind.cluster up | test | down`, behind `make kind-up kind-test kind-down`, needs
Docker, kind, the stages' image, and the internet. `check URL` (`make cluster-test HOST=URL`) is the
same test on any installation: both branches, and every model equal to that of the same settings on
this machine. `test_cluster.py` runs every line of it against programs that only record how they are
called.
"""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

from components.container import IMAGE
from pipelines import metadata
from pipelines.client import connect
from tests.kind.disturb import Disturbance

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
    "dpo.steps=2",
    "evaluate.limit=20",
    "release.accuracy=0",
)
BRANCHES = ("grpo", "dpo")
# The release is a copy of the last merge, with a card that names the image's commit.
MODELS = ("download", "pretrain", "merge", "sft", "dpo", "grpo")
OUTPUTS = ("model", "trained")
CHOICES = {"PROFILE": "--namespace", "ACCOUNT": "--service-account"}
"""Variables for other installations, and the options of submit that they become."""
OURS = "llada-pipeline"
"""The account that `manifests/overlays/kind` makes: the run shows that its rights suffice."""
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
    """The test below on the kind cluster, disturbed, by the account that the manifests make."""
    os.environ.setdefault("ACCOUNT", OURS)
    os.environ.setdefault("PODS", "kubeflow")
    with forwarded("svc/ml-pipeline-ui", 80) as url:
        check(url, "--context", CONTEXT)


def check(url: str, *context: str) -> None:
    """Runs both branches and compares what they made; REFERENCE names runs of an earlier time.

    Nothing comes from KFP's cache, which would show the results of another image. Where PODS names
    the namespace of the pods, kubectl kills a training process and deletes a pod of each run.
    """
    for preference in BRANCHES:
        disturbance = Disturbance(["kubectl", *context], os.environ.get("PODS", ""))
        run = _submit(url, preference, disturbance if os.environ.get("PODS") else None)
        server = connect(url, os.environ.get("PROFILE") or None, None)
        found = metadata.artifacts(server.client, run)
        for artifact in found:
            if artifact.get("stage") == "evaluate":
                print(f"{preference}: accuracy {artifact.get('accuracy')}")
        theirs, ours = models(found), models(reference(preference))
        if theirs != ours:
            lost = sorted(stage for stage, _ in theirs.keys() ^ ours.keys())
            _end(f"run {run}: other models than on this machine: {', '.join(lost)}", 1)
        print(f"cluster: run {run} passed: {sum(theirs.values())} models are equal")


def models(records: Iterable[Mapping[str, Any]]) -> Counter[tuple[str, str]]:
    """Stage and fingerprint of all weights among records of artifacts."""
    return Counter(
        (record["stage"], record["fingerprint"])
        for record in records
        if record.get("stage") in MODELS and record["output"] in OUTPUTS
    )


def reference(preference: str) -> list[dict[str, Any]]:
    """The records of the same settings, run on this machine now or earlier."""
    if earlier := os.environ.get("REFERENCE"):
        return _records(Path(earlier) / preference)
    with tempfile.TemporaryDirectory() as folder:
        settings = [word for setting in SHORT for word in ("--set", setting)]
        _run(sys.executable, "-m", "pipelines.local", "--runs", folder, "--preference", preference,
             *settings)  # fmt: skip
        return _records(Path(folder) / "latest")


def _records(run: Path) -> list[dict[str, Any]]:
    files = sorted(run.glob("artifacts/**/.artifact.json"))
    if not files:
        _end(f"{run}: no run of the pipeline is there", 2)
    return [json.loads(file.read_text()) for file in files]


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


def _submit(url: str, preference: str, disturbance: Disturbance | None) -> str:
    """Runs the real command line; returns the id of a run that succeeded, disturbed or not."""
    settings = [word for setting in SHORT for word in ("--set", setting)]
    command = [sys.executable, "-m", "pipelines.submit", "tiny", "--host", url, "--watch"]
    command += ["--no-cache", "--preference", preference]
    for variable, option in CHOICES.items():
        command += [option, os.environ[variable]] if os.environ.get(variable) else []
    lines = []
    with subprocess.Popen(
        [*command, *settings], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line)
            if len(lines) == 1 and disturbance is not None:
                disturbance.begin(_id(line))
    deeds = disturbance.end() if disturbance is not None else []
    print(*(f"cluster: {deed}" for deed in deeds), sep="\n")
    if process.returncode:
        _end(f"submit ended with exit code {process.returncode}", process.returncode)
    if disturbance is not None and len(deeds) < 2:
        _end(f"PODS={os.environ['PODS']}: the run was over before it was disturbed twice", 1)
    return _id(lines[0])


def _id(page: str) -> str:
    return page.strip().rsplit("/", 1)[-1]


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
    os.chdir(ROOT)
    match sys.argv[1:]:
        case [step] if step in steps:
            steps[step]()
        case ["check", url] if url.startswith(("http://", "https://")):
            check(url.rstrip("/"))
        case words:
            allowed = f"{', '.join(steps)}, check http://HOST"
            _end(f"{' '.join(words) or 'nothing'}, allowed: {allowed}", 2)


if __name__ == "__main__":
    main()
