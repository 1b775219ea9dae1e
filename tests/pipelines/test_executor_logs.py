"""The log of a failed stage whose pod is gone, as KFP's launcher keeps it (`executor-logs`).

The server answers about runs with recordings of a real one; S3 is a real server.
"""

import time

import pytest

from pipelines import executor_logs, logs
from pipelines.client import connect
from pipelines.progress import Row
from pipelines.stages import RETRIED, Stage
from tests.components.conftest import point_at
from tests.pipelines.kfp_server import Server, recording
from tests.pipelines.submitting import FAST, submit

ROOT = "minio://mlpipeline/v2/artifacts/llada-reasoning/run"
FIRST, SECOND = (f"{ROOT}/pretrain/4/executor-logs-{number}" for number in range(2))
SESSION = '{"Provider":"s3","Params":{"fromEnv":"false"}}'
ROW = Row(
    stage=Stage(key="pretrain", name="pretrain", graphs=(), template=RETRIED),
    state="FAILED",
    attempt=2,
)


def artifacts(*addresses):
    """What the metadata store has, in any order: logs, one of another stage's, another output."""
    others = (f"{ROOT}/sft/5/executor-logs-9", f"{ROOT}/pretrain/4/metrics")
    made = [
        {"uri": address, "number": number, "store_session_info": SESSION}
        for number, address in enumerate([*addresses, *others], 7)
    ]
    return lambda preference: made[::-1]


def newest(monkeypatch, *, root=None, **options):
    """The lines of pretrain's log, from a server with these logs and no pod."""
    monkeypatch.setattr(logs, "SECONDS", 60)  # this machine may be busy
    monkeypatch.delenv("KFP_TOKEN", raising=False)
    sent = {"run_id": "run-0", "runtime_config": {"pipeline_root": root}}
    with Server(answers=[recording("failed-after-retry") | sent], **options) as server:
        server.runs["run-0"] = sent
        client = connect(server.url, None, None).client
        run = client.get_run("run-0")
        return logs.first(executor_logs.sources(client, run, ROW, "kubeflow"))


def test_a_failed_run_shows_the_newest_attempt_by_the_ui():
    words = "".join(f"step {number}\n" for number in range(100)) + "\x1b[31mthe loss is nan\n"
    made, kept = artifacts(FIRST, SECOND), {FIRST: "not this", SECOND: words}
    with Server(answers=["failed-after-retry"], artifacts=made, kept=kept) as server:
        done = submit(server, *FAST)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    lines = done.stdout.splitlines()
    place = lines.index("pretrain failed in attempt 2")
    assert lines[place + 1 : place + 20] == [f"  | step {number}" for number in range(81, 100)]
    assert lines[place + 20] == "  |  [31mthe loss is nan"
    assert "kubectl -n kubeflow logs " in lines[place + 21]
    (question,) = server.sent_by_ui
    assert question["namespace"] == "kubeflow" and question["providerInfo"] == SESSION


def test_an_attempt_that_left_none_is_told(monkeypatch):
    lines = newest(monkeypatch, artifacts=artifacts(FIRST), kept={FIRST: "killed\n"})
    assert lines == ["of attempt 1, for attempt 2 left no log:", "killed"]


def test_a_launcher_that_does_not_count(monkeypatch):
    address = f"{ROOT}/pretrain/4/executor-logs"
    lines = newest(monkeypatch, artifacts=artifacts(address), kept={address: "killed\n"})
    assert lines == ["killed"]


def test_secrets_are_not_shown(monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hidden-1")
    kept = {SECOND: "hidden-1 for s3://me:pass@store/x\n"}
    lines = newest(monkeypatch, artifacts=artifacts(SECOND), kept=kept)
    assert lines == ["... for s3://...@store/x"]


@pytest.mark.parametrize("known", [True, False], ids=["metadata", "listing"])
def test_with_the_credentials_of_this_machine(nanio, monkeypatch, known):
    """Where the UI may not read the store, and where no address is to be had."""
    point_at(nanio, monkeypatch)
    folder = f"logs-{known}/llada-reasoning/run-0/pretrain/4"
    places = [f"{folder}/{name}" for name in ("executor-logs-0", "executor-logs-1", "metrics")]
    for key, words in zip(places, ["the first\n", f"{'x' * 70_000}\nlast\n", "{}"], strict=True):
        nanio.client().put_object(Bucket="bucket", Key=key, Body=words.encode())
        time.sleep(0 if known else 1.1)  # listings tell the time in seconds
    made = artifacts(*(f"s3://bucket/{key}" for key in places))
    root = f"s3://bucket/logs-{known}/?region=x"
    lines = newest(monkeypatch, root=root, artifacts=made if known else None)
    assert lines[-1] == "last" and len(lines) == 2 and len(lines[0]) < 5000


@pytest.mark.parametrize("content", ["<html>", ""], ids=["page", "nothing"])
def test_a_page_is_no_log(monkeypatch, content):
    """A server that answers with the page of its UI or of a login, or that has lost the file."""
    assert newest(monkeypatch, artifacts=artifacts(SECOND), kept={SECOND: content}) == []


def test_a_source_that_hangs_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(logs, "SECONDS", 0.3)
    begun = time.monotonic()
    fast = [lambda: 1 / 0, lambda: [], lambda: ["here"]]
    assert logs.first([lambda: time.sleep(60), *fast]) == ["here"]
    assert logs.first([lambda: time.sleep(60)]) == []
    assert time.monotonic() - begun < 10
