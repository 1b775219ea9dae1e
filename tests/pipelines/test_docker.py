"""The whole pipeline in containers, through the real command line, against the process runner."""

import json
import os
import subprocess
import sys

import pytest

from components import USER
from components.container import BUILT
from pipelines.engine import REVISION, EngineError, connect
from tests.conftest import ROOT
from tests.end_to_end.test_pipeline import SHORT

# What the machine's load decides, in report.json and in the records.
MEASURED = ("seconds", "total_seconds", "tokens_per_second", "peak_memory_bytes")
RUNNERS = ("docker", "process")


def pipeline(runs, runner, *settings, **environment):
    command = [sys.executable, "-m", "pipelines.local", "--runs", str(runs), "--runner", runner]
    for setting in settings:
        command += ["--set", setting]
    given = {**os.environ, "IMAGE": BUILT, **environment}
    return subprocess.run(command, cwd=ROOT, env=given, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def runs(image, tmp_path_factory):
    """The same shortened run by both runners: directories `process` and `docker`."""
    root = tmp_path_factory.mktemp("runs")
    for runner in RUNNERS:
        done = pipeline(root / runner, runner, *SHORT)
        assert done.returncode == 0, done.stderr
    return root


def test_same_numbers(runs):
    process, docker = (report(runs / runner) for runner in ("process", "docker"))
    assert comparable(docker) == comparable(process)


def test_same_weights(runs):
    """Every artifact of a model or adapter has the same bytes, whoever ran the stage."""
    process, docker = (weights(runs / runner / "latest") for runner in ("process", "docker"))
    assert len(docker) == 5
    assert docker == process


def test_records_of_containers(runs, image):
    """Every artifact has a record, as many as the processes' run has."""
    pattern = "artifacts/*/*/*/.artifact.json"
    docker, process = (list((runs / name / "latest").glob(pattern)) for name in RUNNERS)
    assert len(docker) == len(process) > 10
    for path in docker:
        record = json.loads(path.read_text())
        assert record["git_commit"] == image.labels[REVISION]
        assert image.id in record["image"] or record["image"] in image.attrs["RepoDigests"]
        assert path.stat().st_uid == (os.getuid() or USER)
    for path in process:
        assert json.loads(path.read_text())["image"] is None


def test_failing_stage_fails_the_run(image, tmp_path):
    done = pipeline(tmp_path, "docker", "pretrain.window=1000")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "pretrain.window=1000, allowed: up to 128" in done.stderr
    assert "pipeline: error: stage preflight failed with exit code 2" in done.stderr
    assert not (tmp_path / "latest").exists()


def test_no_such_image(engine, tmp_path):
    done = pipeline(tmp_path, "docker", IMAGE="llada-reasoning-test:never")
    words = ["IMAGE=llada-reasoning-test:never", "`docker pull llada-reasoning-test:never`"]
    one_line(done, tmp_path, words)


@pytest.mark.parametrize(
    ("runner", "host", "words"),
    [
        ("docker", "unix:///nowhere.sock", ["no Docker engine answers", "unix:///nowhere.sock"]),
        ("docker", "tcp://127.0.0.1:1", ["no Docker engine answers", "systemctl start docker"]),
        ("docker", "nonsense", ["DOCKER_HOST=nonsense", "RUNNER=process"]),
        ("podman", "nonsense", ["RUNNER='podman', allowed: process, docker"]),
    ],
)
def test_no_engine(tmp_path, runner, host, words):
    one_line(pipeline(tmp_path, runner, DOCKER_HOST=host), tmp_path, words)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give its permissions up here")
def test_no_permission(engine, monkeypatch, tmp_path):
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    os.seteuid(65534)
    try:
        with pytest.raises(EngineError, match=r"no permission .* usermod -aG docker"):
            connect()
    finally:
        os.seteuid(0)


def one_line(done, runs, words):
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    for word in words:
        assert word in line
    assert not list(runs.iterdir())


def report(runs):
    return json.loads((runs / "latest" / "report.json").read_text())


def comparable(value):
    """A report without what the machine's load decides."""
    if isinstance(value, dict):
        return {key: comparable(inner) for key, inner in value.items() if key not in MEASURED}
    return [comparable(inner) for inner in value] if isinstance(value, list) else value


def weights(run):
    """The checksum of every safetensors file of a run, by its place in it."""
    found = {}
    for path in run.glob("artifacts/*/*/*/.artifact.json"):
        for name, facts in json.loads(path.read_text())["files"].items():
            if name.endswith(".safetensors"):
                found["/".join((*path.parts[-3:-1], name))] = facts["sha256"]
    return found
