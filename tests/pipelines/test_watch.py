"""`python -m pipelines.submit --watch` and `--retry`, against a server of Kubeflow's API."""

import os
import pty
import subprocess
import sys
import threading

from tests.conftest import ROOT
from tests.pipelines.kfp_server import API, FAILED, Server, recording
from tests.pipelines.submitting import FAST, refused, submit


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
        refused(submit(server, recipe=None), "RECIPE=None", "llada_8b_instruct, tiny")
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


def test_the_newest_line_of_a_running_stage():
    """Its figures, where it has printed any; nothing of a log steers the terminal."""
    pod = "llada-reasoning-m86cn-retry-system-container-impl-779818925"
    words = "pretrain step 5/900 loss 1.2 left 3s\n\x1b[31mchecked\n"
    with Server(answers=["retrying", "retrying", "succeeded"], logs={pod: words}) as server:
        done = submit(server, *FAST)
        looks = [path for _, path in server.requests if path == "/k8s/pod/logs"]
    lines = done.stdout.splitlines()
    assert lines.count("pretrain: step 5/900 loss 1.2 left 3s") == 1 and len(looks) == 1
    with Server(answers=["retrying", "succeeded"], logs={pod: "\x1b[31mchecked\n"}) as server:
        done = submit(server, *FAST)
    assert "pretrain:  [31mchecked" in done.stdout.splitlines()


def test_no_log_is_no_error():
    with Server(answers=["retrying", "succeeded"]) as server:
        done = submit(server, *FAST)
    assert done.returncode == 0 and "pretrain:" not in done.stdout
