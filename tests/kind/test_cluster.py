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
from tests.kind import cluster, disturb
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
if "get" in arguments and "pods" in arguments:
    names = ["x-system-container-driver-1", "x-retry-system-container-impl-1"]
    pods = [{{"metadata": {{"name": name}}, "status": {{"phase": "Running"}}}} for name in names]
    print(json.dumps({{"items": pods}}))
if "exec" in arguments:
    running = [name for name in os.environ["STAGES"].split() if name in arguments]
    print(*running[:1])
if "port-forward" in arguments:
    print(f"Forwarding from 127.0.0.1:{{os.environ['PORT']}} -> 3000", flush=True)
    signal.pause()
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

    def run(*arguments, **environment):
        found = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "CALLS": str(calls)}
        command = [sys.executable, "-m", "tests.kind.cluster", *arguments]
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


def made(preference, changed=None):
    """What the stages of a branch tell KFP about their artifacts, as their records do."""
    stages = ["download", "pretrain", "sft", preference, "merge", "release"]
    outputs = ["model", "trained", "trained", "trained", "model", "release"]
    weights = [
        {"stage": stage, "output": output, "fingerprint": f"{stage}-{number}", "bytes": 2**40}
        for number, (stage, output) in enumerate(zip(stages, outputs, strict=True))
    ]
    if changed is not None:
        weights[changed]["fingerprint"] = "another"
    rest = [
        {"stage": "download", "output": "dataset", "fingerprint": "of the cluster"},
        {"output": "metrics", "accuracy": 0.25, "steps": 20},
        {"stage": "evaluate", "output": "evaluation", "fingerprint": "e", "accuracy": 0.25},
    ]
    return [*weights, *rest]


@pytest.fixture
def reference(tmp_path):
    """Records of earlier runs of both branches."""
    folder = tmp_path / "reference"
    for preference in cluster.BRANCHES:
        for number, properties in enumerate(made(preference)):
            record = folder / preference / "artifacts" / str(number) / ".artifact.json"
            record.parent.mkdir(parents=True)
            if properties["output"] == "dataset":
                properties["fingerprint"] = "of this machine"
            record.write_text(json.dumps({"stage": "sft", "fingerprint": "x", **properties}))
    return str(folder)


@pytest.mark.parametrize("step", ["test", "check"])
def test_both_branches_equal_those_of_this_machine(kind, reference, step):
    """On kind by a port that is forwarded, or on any installation at its address."""
    with Server(artifacts=made) as server:
        arguments = [step] if step == "test" else [step, server.url]
        port = server.url.rsplit(":", 1)[1]
        done = kind(*arguments, PORT=port, REFERENCE=reference, STAGES="sft grpo")
    assert done.returncode == 0, done.stderr
    grpo, dpo = server.runs.values()
    given = grpo["runtime_config"]["parameters"]
    assert given["sft"]["steps"] == 20 and given["release"]["accuracy"] == 0
    assert dpo["runtime_config"]["parameters"]["preference"] == "dpo"
    accounts = {run.get("service_account") for run in server.runs.values()}
    assert accounts == {cluster.OURS if step == "test" else None}
    assert "grpo: accuracy 0.25" in done.stdout
    lines = [line for line in done.stdout.splitlines() if line.startswith("cluster: run")]
    disturbed = [call for call in kind.calls() if "exec" in call]
    assert bool(disturbed) == (step == "test")
    assert all(call[1:5] == ["--context", "kind-llada", "-n", "kubeflow"] for call in disturbed)
    assert lines == [f"cluster: run {run} passed: 5 models are equal" for run in server.runs]
    for version in server.versions.values():
        (pipeline, _) = version["spec"]
        assert pipeline["root"]["dag"]["tasks"]["download"]["cachingOptions"] == {}


def test_the_account_on_kind_is_that_of_the_manifests():
    base = yaml.safe_load_all((ROOT / "manifests/base/service-accounts.yaml").read_text())
    names = [each["metadata"]["name"] for each in base if each["kind"] == "ServiceAccount"]
    assert cluster.OURS in names
    overlay = yaml.safe_load((ROOT / "manifests/overlays/kind/kustomization.yaml").read_text())
    assert overlay["resources"] == ["../../base"] and overlay["namespace"] == "kubeflow"


def test_a_server_with_several_users(kind, reference):
    """The profile and the account of the pods are named, and every request has the token."""
    with Server(artifacts=made, multi_user=True, token="right") as server:
        given = {"PROFILE": "llada", "ACCOUNT": "llada-pipeline", "KFP_TOKEN": "right"}
        done = kind("check", server.url, REFERENCE=reference, **given)
    assert done.returncode == 0, done.stderr
    assert [e["namespace"] for e in server.experiments.values()] == ["llada"]
    assert {run["service_account"] for run in server.runs.values()} == {"llada-pipeline"}
    assert set(server.tokens) == {"Bearer right"}


def test_a_run_is_disturbed_once_in_each_way(kind, reference):
    """One stage's process is killed, another's pod deleted; the driver's is left alone."""
    with Server(artifacts=made) as server:
        done = kind("check", server.url, REFERENCE=reference, PODS="ours", STAGES="sft grpo")
    assert done.returncode == 0, done.stdout + done.stderr
    pod = "x-retry-system-container-impl-1"
    assert f"cluster: the process of sft was killed in {pod}" in done.stdout
    assert f"cluster: pod {pod} was deleted" in done.stdout
    calls = [call for call in kind.calls() if call[0] == "kubectl"]
    assert all(call[1:3] == ["-n", "ours"] for call in calls)
    assert len([call for call in calls if "delete" in call]) == len(cluster.BRANCHES)
    assert all(pod in call for call in calls if "exec" in call)


def test_a_run_that_is_not_disturbed_proves_nothing(kind, reference):
    """Only sft ever runs here, whose process is killed: its pod is not deleted as well."""
    with Server(artifacts=made) as server:
        done = kind("check", server.url, REFERENCE=reference, PODS="ours", STAGES="sft")
    assert done.returncode == 1 and "before it was disturbed twice" in done.stderr
    looks = [call for call in kind.calls() if "look" in call]
    assert all(call[call.index("look") + 1 :] == ["pretrain", "dpo", "grpo"] for call in looks)


@pytest.mark.parametrize(("deed", "killed"), [("look", False), ("kill", True)])
def test_the_process_of_a_stage_is_found_and_killed(tmp_path, deed, killed):
    """The program that runs in a pod, on a process that looks like a stage."""
    (tmp_path / "components").mkdir()
    (tmp_path / "components" / "sft.py").write_text(
        "import time; print(flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-m", "components.sft"]
    stage = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, env={})
    try:
        assert stage.stdout.readline()
        (tmp_path / "proc").mkdir()
        (tmp_path / "proc" / str(stage.pid)).symlink_to(f"/proc/{stage.pid}")
        here = f"prestop.stages(pathlib.Path({str(tmp_path / 'proc')!r}))"
        code = disturb.STAGE.replace("prestop.stages()", here)
        command = [sys.executable, "-c", code, deed, "pretrain", "sft"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        assert done.stdout == "sft\n"
        assert (stage.wait(10) == -9) if killed else (stage.poll() is None)
    finally:
        stage.kill()
        stage.wait()


def test_another_model_is_named(kind, reference):
    with Server(artifacts=lambda preference: made(preference, changed=2)) as server:
        done = kind("check", server.url, REFERENCE=reference)
    assert done.returncode == 1
    assert "other models than on this machine: sft, sft" in done.stderr


def test_a_model_that_is_missing_is_named(kind, reference):
    with Server(artifacts=lambda preference: made(preference)[1:]) as server:
        done = kind("check", server.url, REFERENCE=reference)
    assert done.returncode == 1 and "this machine: download" in done.stderr


def test_reference_that_is_not_there(kind, tmp_path):
    with Server(artifacts=made) as server:
        done = kind("check", server.url, REFERENCE=str(tmp_path))
    assert done.returncode == 2 and "no run of the pipeline is there" in done.stderr


def test_run_that_fails(kind):
    with Server(answers=FAILED) as server:
        done = kind("test", PORT=server.url.rsplit(":", 1)[1])
    assert done.returncode == 1 and "submit ended with exit code 1" in done.stderr


def test_forward_that_fails(kind):
    done = kind("test", FAIL="port-forward")
    assert done.returncode == 1 and "it ended at once" in done.stderr


def test_down(kind):
    assert kind("down").returncode == 0
    assert kind.calls() == [["kind", "delete", "cluster", "--name", "llada"]]


@pytest.mark.parametrize("words", [["sideways"], [], ["check"], ["check", "localhost:80"]])
def test_unknown_step(kind, words):
    done = kind(*words)
    assert done.returncode == 2 and "allowed: up, test, down, check http://HOST" in done.stderr


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
    assert "df --human-readable" in text and "--cache .cache/image" in text
    (kept,) = [step for step in job["steps"] if "upload-artifact" in step.get("uses", "")]
    assert kept["if"] == "always()" and kept["with"] == {"name": "logs", "path": "logs"}
