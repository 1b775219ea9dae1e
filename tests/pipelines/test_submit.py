"""`python -m pipelines.submit` against a server that speaks Kubeflow's REST API over HTTP."""

import os
import pty
import socket
import subprocess
import sys
import threading

import pytest

from pipelines.recipes import tiny
from tests.conftest import ROOT
from tests.pipelines.kfp_server import API, Server

FAST = ("--watch", "--poll", "0.01")


def submit(server, *arguments, recipe="tiny", home=None, **environment):
    """The real command line; `environment` adds variables."""
    url = server if isinstance(server, str) else server.url
    command = [sys.executable, "-m", "pipelines.submit", recipe, "--host", url, *arguments]
    clean = {key: v for key, v in os.environ.items() if not key.startswith(("KF", "HTTP", "http"))}
    return subprocess.run(
        command,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={**clean, "HOME": str(home or "/nonexistent"), **environment},
    )


def refused(done, *words):
    """One line that holds the words, exit code 2."""
    assert done.returncode == 2, done.stdout + done.stderr
    (line,) = done.stderr.strip().splitlines()
    for word in words:
        assert word in line


def test_run_is_uploaded_started_and_followed():
    with Server() as server:
        done = submit(server, "--set", "sft.learning_rate=2e-5", "--experiment", "sums", *FAST)
    assert done.returncode == 0, done.stderr
    (run,) = server.runs.values()
    assert server.experiments[run["experiment_id"]]["display_name"] == "sums"
    given = run["runtime_config"]["parameters"]
    assert list(given) == ["sft"]
    assert given["sft"]["learning_rate"] == 2e-5
    assert given["sft"]["steps"] == tiny().sft.steps
    version = server.versions[run["pipeline_version_reference"]["pipeline_version_id"]]
    assert version["display_name"].startswith("tiny-")
    pipeline, platform = version["spec"]
    assert pipeline["pipelineInfo"]["name"] == "llada-reasoning" and "platforms" in platform
    lines = done.stdout.splitlines()
    url = f"{server.url}/#/runs/details/{run['run_id']}"
    assert lines[0] == url and lines[-1] == f"succeeded: {url}"
    assert "download SUCCEEDED 7" in lines and "pretrain SUCCEEDED 7" in lines
    assert not any("root" in line for line in lines)


def test_same_content_is_not_sent_twice():
    with Server() as server:
        assert submit(server).returncode == 0
        assert submit(server, "--set", "sft.steps=10").returncode == 0
    uploads = [path for _, path in server.requests if "upload" in path]
    assert uploads == [f"{API}/pipelines/upload", f"{API}/pipelines/upload_version"]
    assert len(server.runs) == 2 and len(server.experiments) == 1


def test_failed_run_is_exit_code_1():
    with Server(last="FAILED") as server:
        done = submit(server, *FAST)
    assert done.returncode == 1
    assert "pretrain: the loss is nan" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("failed: http://")


def test_lost_answers_are_asked_for_again():
    with Server(faults=[503, 500, 502]) as server:
        assert submit(server, *FAST).returncode == 0


def test_server_that_never_comes_back():
    with Server(faults=[503] * 100) as server:
        done = submit(server, *FAST)
    assert done.returncode == 2
    assert "503" in done.stderr and "the run goes on" in done.stderr
    assert "Traceback" not in done.stderr


def test_table_in_a_terminal():
    """A live table where the output is a terminal."""
    master, slave = pty.openpty()
    parts = []

    def read():
        while True:
            try:
                part = os.read(master, 4096)
            except OSError:
                return
            if not part:
                return
            parts.append(part)

    with Server() as server:
        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        process = subprocess.Popen(
            [sys.executable, "-m", "pipelines.submit", "tiny", "--host", server.url, *FAST],
            cwd=ROOT,
            stdout=slave,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "100"},
        )
        assert process.wait(120) == 0
        os.close(slave)
        reader.join(10)
    shown = b"".join(parts).decode()
    assert "│ download" in shown and "SUCCEEDED" in shown and "stage" in shown


def test_token_of_the_environment():
    with Server(token="right") as server:
        done = submit(server, KFP_TOKEN="right")
        refused(submit(server, KFP_TOKEN="wrong"), "was refused (401)", "export KFP_TOKEN=")
        refused(submit(server), "is missing (401)", "create token")
    assert done.returncode == 0, done.stderr
    assert "right" not in done.stdout + done.stderr and "right" not in str(server.requests)


def test_token_of_the_service_account(tmp_path):
    """The kubelet's file is read before every request, so a renewed token is used."""
    file = tmp_path / "token"
    file.write_text("right")
    with Server(token="right") as server:
        done = submit(server, *FAST, KF_PIPELINES_SA_TOKEN_PATH=str(file))
    assert done.returncode == 0, done.stderr
    assert set(server.tokens) == {"Bearer right"}


def test_namespace_is_for_many_users(tmp_path):
    with Server(multi_user=True) as server:
        refused(submit(server, home=tmp_path), "--namespace is missing")
        done = submit(server, "--namespace", "me", home=tmp_path)
    assert done.returncode == 0, done.stderr
    (experiment,) = server.experiments.values()
    assert experiment["namespace"] == "me"
    with Server() as server:
        assert submit(server, "--namespace", "me", home=tmp_path).returncode == 0
    (experiment,) = server.experiments.values()
    assert not experiment["namespace"]


def test_no_token_argument():
    refused_words = submit("http://127.0.0.1:1", "--token", "x")
    assert refused_words.returncode == 2 and "unrecognized arguments" in refused_words.stderr


def test_host_down():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    refused(submit(url), url, "no answer", "port-forward")


@pytest.mark.parametrize(
    ("health", "page", "words"),
    [
        (404, False, "no Kubeflow Pipelines API v2"),
        (403, False, "token is missing (403)"),
        (500, False, "500"),
        (200, True, "a page, to log in perhaps"),
        (302, True, "a page, to log in perhaps"),
    ],
)
def test_another_server(health, page, words):
    with Server(health=health, page=page) as server:
        refused(submit(server), server.url, words)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--set", "sft.lr=2e-5"], ["unknown field sft.lr", "allowed", "learning_rate"]),
        (["--set", "sft.steps=many"], ["sft.steps='many'", "a whole number"]),
        (["--placement", "moon"], ["--placement='moon'", "gpu, small"]),
        (["--preference", "ppo"], ["preference='ppo'", "dpo, grpo"]),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_sent(arguments, words):
    with Server() as server:
        refused(submit(server, *arguments), *words)
    assert server.requests == []


def test_unknown_recipe():
    with Server() as server:
        refused(submit(server, recipe="huge"), "RECIPE='huge'", "llada_8b, tiny")
    assert server.requests == []


def test_host_without_scheme():
    refused(submit("localhost:8080"), "--host='localhost:8080'", "http://")
