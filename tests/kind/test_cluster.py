"""Every line of the kind run, against programs on PATH that record how they are called.

The Kubeflow API is the HTTP server of the submit tests; no cluster, container or network is used.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT
from tests.kind import cluster
from tests.pipelines.kfp_server import FAILED, Server

FAKE = f'''#!{sys.executable}
"""Records its arguments, answers what the real program would, fails where told to."""
import json, os, signal, sys
from pathlib import Path

program, arguments = Path(sys.argv[0]).name, sys.argv[1:]
words = " ".join([program, *arguments])
with open(os.environ["CALLS"], "a") as stream:
    stream.write(json.dumps([program, *arguments]) + "\\n")
if os.environ.get("FAIL") and os.environ["FAIL"] in words:
    sys.exit(3)
if words == "kind get clusters":
    print(os.environ.get("CLUSTERS", ""))
if "port-forward" in arguments:
    print(f"Forwarding from 127.0.0.1:{{os.environ['PORT']}} -> 3000", flush=True)
    signal.pause()
if "logs" in arguments:
    for correct in range(int(os.environ.get("EVALUATIONS", "3"))):
        print(f"evaluate: {{correct}} of 20 exact")
'''


@pytest.fixture
def kind(tmp_path):
    """Runs one step with the recording programs first on PATH; returns the process, keeps calls."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in cluster.WAYS:
        (programs / name).write_text(FAKE)
        (programs / name).chmod(0o755)
    calls = tmp_path / "calls"
    calls.touch()

    def run(step, **environment):
        found = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "CALLS": str(calls)}
        command = [sys.executable, "-m", "tests.kind.cluster", *([step] if step else [])]
        return subprocess.run(
            command,
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            env={**found, "HOME": str(tmp_path), **environment},
        )

    run.calls = lambda: [json.loads(line) for line in calls.read_text().splitlines()]
    run.programs = programs
    return run


def test_up(kind):
    done = kind("up", IMAGE="llada-reasoning:tested")
    assert done.returncode == 0, done.stderr
    calls = [" ".join(call) for call in kind.calls()]
    assert calls[0] == "docker image inspect llada-reasoning:tested"
    create = next(call for call in calls if call.startswith("kind create"))
    assert "--name llada" in create and "@sha256:" in create
    assert "kind load docker-image llada-reasoning:tested --name llada" in calls
    applied = [call.split(" -k ")[1] for call in calls if " apply " in call]
    assert [Path(where).name for where in applied[1:]] == ["kfp", "kind"]
    assert applied[0].endswith(f"cluster-scoped-resources?ref={cluster.KFP}")
    assert all("--context kind-llada" in call for call in calls if call.startswith("kubectl"))
    order = [
        calls.index(next(c for c in calls if word in c)) for word in ("load", "-k", "wait crd")
    ]
    assert order == sorted(order)


def test_up_twice_keeps_the_cluster(kind):
    assert kind("up", CLUSTERS="other\nllada").returncode == 0
    assert not any(call[:2] == ["kind", "create"] for call in kind.calls())


def test_up_without_the_image(kind):
    done = kind("up", FAIL="image inspect")
    assert done.returncode == 2 and "is not built here; make image-build" in done.stderr
    assert len(kind.calls()) == 1


def test_up_without_kind(kind):
    (kind.programs / "kind").unlink()
    done = kind("up", PATH=str(kind.programs))
    assert done.returncode == 2 and "kind is not on PATH" in done.stderr
    assert kind.calls() == []


def test_a_step_that_fails_ends_it(kind):
    done = kind("up", FAIL="kind load")
    assert done.returncode == 1 and "kind load docker-image" in done.stderr
    assert not any("apply" in call for call in kind.calls())


def test_run_and_figures(kind):
    with Server() as server:
        done = kind("test", PORT=server.url.rsplit(":", 1)[1])
    assert done.returncode == 0, done.stderr
    (run,) = server.runs.values()
    assert run["runtime_config"]["parameters"]["sft"]["steps"] == 20
    assert run["runtime_config"]["parameters"]["release"]["accuracy"] == 0
    assert "exact match: 2 of 20" in done.stdout
    assert done.stdout.splitlines()[-1] == f"kind: run {run['run_id']} passed"
    logs = next(call for call in kind.calls() if "logs" in call)
    assert f"pipeline/runid={run['run_id']}" in logs


def test_run_that_fails(kind):
    with Server(answers=FAILED) as server:
        done = kind("test", PORT=server.url.rsplit(":", 1)[1])
    assert done.returncode == 1 and "submit ended with exit code 1" in done.stderr
    assert not any("logs" in call for call in kind.calls())


def test_run_without_figures(kind):
    with Server() as server:
        done = kind("test", PORT=server.url.rsplit(":", 1)[1], EVALUATIONS="2")
    assert done.returncode == 1 and "2 evaluations" in done.stderr


def test_forward_that_fails(kind):
    done = kind("test", FAIL="port-forward")
    assert done.returncode == 1 and "it ended at once" in done.stderr


def test_down(kind):
    assert kind("down").returncode == 0
    assert kind.calls() == [["kind", "delete", "cluster", "--name", "llada"]]


@pytest.mark.parametrize("step", ["sideways", None])
def test_unknown_step(kind, step):
    done = kind(step)
    assert done.returncode == 2 and "allowed: up, test, down" in done.stderr


def test_workflow_runs_the_three_steps():
    """On every way out the cluster is deleted; actions and downloads are pinned by content."""
    text = (ROOT / ".github/workflows/kind.yaml").read_text()
    (job,) = yaml.safe_load(text)["jobs"].values()
    commands = [step["run"] for step in job["steps"] if "run" in step]
    made = [command for command in commands if "make kind-" in command]
    assert [command.split()[-1] for command in made] == ["kind-up", "kind-test", "kind-down"]
    (last,) = [step for step in job["steps"] if "kind-down" in step.get("run", "")]
    assert last["if"] == "always()"
    for step in job["steps"]:
        if "uses" in step:
            assert len(step["uses"].split("@")[1]) == 40, step["uses"]
    assert "sha256sum --check" in text
