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
from tests.pipelines.kfp_server import API, FAILED, Server, recording

FAST = ("--watch", "--poll", "0.01")


def submit(server, *arguments, recipe="tiny", home=None, **environment):
    """The real command line; `environment` adds variables."""
    url = server if isinstance(server, str) else server.url
    names = [recipe] if recipe else []
    command = [sys.executable, "-m", "pipelines.submit", *names, "--host", url, *arguments]
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
    assert "download SUCCEEDED 20" in lines and "evaluate grpo SUCCEEDED 20" in lines
    assert not any(word in done.stdout for word in ("root", "executor", "driver(", "condition"))


def test_same_content_is_not_sent_twice():
    with Server() as server:
        assert submit(server).returncode == 0
        assert submit(server, "--set", "sft.steps=10").returncode == 0
    uploads = [path for _, path in server.requests if "upload" in path]
    assert uploads == [f"{API}/pipelines/upload", f"{API}/pipelines/upload_version"]
    assert len(server.runs) == 2 and len(server.experiments) == 1


def test_failed_run_is_exit_code_1():
    pod = "llada-reasoning-hr42x-retry-system-container-impl-3944347887"
    words = "".join(f"step {number}\n" for number in range(100)) + "the loss is nan\n"
    with Server(answers=FAILED, logs={pod: words}) as server:
        done = submit(server, *FAST)
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    place = lines.index("pretrain failed in attempt 1")
    assert lines[place + 20] == "  | the loss is nan" and lines[place + 1] == "  | step 81"
    assert f"kubectl -n kubeflow logs {pod} -c main" in done.stdout
    assert "has retries and was not started again: the installation's policy" in done.stdout
    (run,) = server.runs
    again = f"python -m pipelines.submit --retry {run} --host {server.url} --watch"
    assert lines[-2] == f"to go on from there: {again}"
    assert lines[-1].startswith("failed: http://")


def test_failed_run_of_a_profile_goes_on_in_it(tmp_path):
    with Server(answers=FAILED, multi_user=True) as server:
        done = submit(server, "--namespace", "me", *FAST, home=tmp_path)
    assert done.returncode == 1
    assert f"--host {server.url} --namespace me --watch" in done.stdout
    assert "kubectl -n me logs llada-reasoning-hr42x" in done.stdout


def test_failed_run_without_a_log_still_says_how_to_get_one():
    with Server(answers=["failed-after-retry"]) as server:
        done = submit(server, *FAST)
    assert done.returncode == 1
    assert "pretrain failed in attempt 2" in done.stdout and "  | " not in done.stdout
    assert "was not started again" not in done.stdout
    assert "download CACHED 0" in done.stdout.splitlines()
    assert "describe pod llada-reasoning-ntvfk-retry-system" in done.stdout


def test_retry_goes_on_with_the_same_run():
    with Server(answers=FAILED) as server:
        assert submit(server, *FAST).returncode == 1
        (run,) = server.runs
        done = submit(server, "--retry", run, *FAST, recipe=None)
    assert done.returncode == 0, done.stderr
    assert ("POST", f"{API}/runs/{run}:retry") in server.requests and len(server.runs) == 1
    assert "release grpo SUCCEEDED 10" in done.stdout
    assert done.stdout.splitlines()[0] == f"{server.url}/#/runs/details/{run}"


def test_retry_of_what_is_not_there():
    with Server() as server:
        refused(submit(server, "--retry", "x", recipe=None), "--retry='x'", "the id of a run")
        refused(submit(server, "--retry", "x"), "RECIPE='tiny'", "--retry RUN to go on")
        refused(submit(server, recipe=None), "RECIPE=None", "llada_8b, tiny")
    assert not any(method == "POST" for method, _ in server.requests)


def test_a_pod_that_waits_names_the_command_that_tells_why():
    """A claim that is absent: `executor(0)` alone is PENDING, and the stage waits for it."""
    with Server(answers=[waiting("retrying"), "succeeded"]) as server:
        done = submit(server, *FAST)
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("pretrain: waits")]
    pod = "llada-reasoning-m86cn-retry-system-container-impl-779818925"
    assert line.endswith(f"why: kubectl -n kubeflow describe pod {pod}")
    assert "pretrain WAITING" in done.stdout


def waiting(name):
    """A recording in which the newest pod has not begun."""
    answer = recording(name)
    tasks = answer["run_details"]["task_details"]
    (pod,) = [task for task in tasks if task.get("display_name") == "executor(2)"]
    pod["state"] = "PENDING"
    return answer


def test_several_nodes_are_part_of_the_version_and_no_argument():
    with Server() as server:
        done = submit(server, "--nodes", "pretrain=4", "--nodes", "dpo=2")
        refused(submit(server, "--nodes", "pretrain=3"), "nodes=3, allowed: 1, 2, 4, 8: ")
    assert done.returncode == 0, done.stderr
    ((pipeline, _),) = [version["spec"] for version in server.versions.values()]
    executors = pipeline["deploymentSpec"]["executors"]
    names = {name for name, executor in executors.items() if "env" in executor["container"]}
    assert names == {"exec-pretrain", "exec-dpo"}
    (run,) = server.runs.values()
    assert not run["runtime_config"].get("parameters")


def test_no_cache_runs_every_stage():
    with Server() as server:
        assert submit(server, "--no-cache").returncode == 0
    for version in server.versions.values():
        tasks = version["spec"][0]["root"]["dag"]["tasks"]
        assert tasks["download"]["cachingOptions"] == {}


def test_checkpoints_are_kept_beside_the_artifacts():
    """Where the root is S3; a stage that names its own place keeps it."""
    with Server() as server:
        own = ("--set", "dpo.checkpoint_uri=s3://bucket/own")
        assert submit(server, "--pipeline-root", "s3://bucket/root/", *own).returncode == 0
        assert submit(server, "--pipeline-root", "minio://bucket/root").returncode == 0
        assert submit(server, "--checkpoints", "s3://bucket/all").returncode == 0
        root = ("--pipeline-root", "s3://bucket/root")
        assert submit(server, *root, "--checkpoints", "none").returncode == 0
        done = submit(server, "--checkpoints", "checkpoints")
    refused(done, "checkpoint_uri='checkpoints'", "an absolute path")
    places = [
        {stage: config.get("checkpoint_uri") for stage, config in parameters(run).items()}
        for run in server.runs.values()
    ]
    beside = "s3://bucket/root/checkpoints"
    assert places[0] == {
        "pretrain": beside,
        "sft": beside,
        "grpo": beside,
        "dpo": "s3://bucket/own",
    }
    assert places[1] == places[3] == {}
    assert set(places[2].values()) == {"s3://bucket/all"} and len(places[2]) == 4


def parameters(run):
    return run["runtime_config"].get("parameters", {})


@pytest.mark.parametrize(
    ("image", "warned"),
    [
        ("llada-reasoning:dev", True),
        ("registry:5000/llada", True),
        ("llada-reasoning:v1.2", True),
        ("llada-reasoning:1a2b3c4", False),
        ("registry/llada@sha256:" + "0" * 64, False),
    ],
)
def test_a_tag_that_moves_is_warned_of(image, warned):
    """The server would hand out the results of yesterday's image under today's name."""
    with Server() as server:
        done = submit(server, IMAGE=image)
        anew = submit(server, "--no-cache", IMAGE=image)
    assert done.returncode == anew.returncode == 0
    assert "warning" not in anew.stderr
    assert (f"IMAGE={image} may be another image tomorrow" in done.stderr) is warned


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
        done = submit(server, "--namespace", "me", home=tmp_path)
    refused(done, "--namespace='me'", "this server has one user", "kubeflow")
    assert not server.experiments


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
