"""A run's progress, told from the recorded answers of a real server; no field need be there."""

import json
from datetime import UTC, datetime

import pytest
import yaml
from kfp_server_api import ApiClient, V2beta1Run

from pipelines.progress import NOT_BEGUN, rows
from pipelines.stages import stages
from tests.pipelines.kfp_server import RECORDINGS, recording

PIPELINE = yaml.safe_load((RECORDINGS / "pipeline.yaml").read_text())
NOW = datetime(2026, 11, 26, 13, 41, tzinfo=UTC)
NAMES = [
    *("preflight", "download", "pretrain", "merge pretrain", "evaluate base"),
    *("sft", "merge sft", "evaluate sft"),
    *("dpo", "merge dpo", "evaluate dpo", "report dpo", "release dpo"),
    *("grpo", "merge grpo", "evaluate grpo", "report grpo", "release grpo"),
]
DPO = tuple(name for name in NAMES if name.endswith("dpo"))


class Reply:
    def __init__(self, answer):
        self.data = json.dumps(answer)


@pytest.fixture(scope="module")
def progress():
    """State, seconds and attempt of every stage that has begun, by its display name."""
    order = stages(PIPELINE)

    def told(answer):
        run = ApiClient().deserialize(Reply(answer), V2beta1Run)
        return {row.stage.name: row for row in rows(run, order, now=NOW)}

    return told


def short(found):
    return {
        name: (row.state, row.seconds, row.attempt)
        for name, row in found.items()
        if row.state != NOT_BEGUN
    }


def test_order(compiled):
    assert [stage.name for stage in stages(PIPELINE)] == NAMES
    order = [stage.name for stage in stages(compiled.pipeline)]
    assert order[:2] == ["preflight", "download"] and order[-1].startswith("release ")
    places = {name: order.index(name) for name in order}
    for name in order:
        if name.startswith(("evaluate ", "merge ")) and name != "evaluate base":
            assert places[name] > places[name.split()[1]]
    server_side = {"pipeline_spec": compiled.pipeline, "platform_spec": compiled.platform}
    assert stages(server_side) == stages(compiled.pipeline)


@pytest.mark.parametrize("document", [{}, {"pipeline_spec": None}, {"components": {}, "root": {}}])
def test_another_document(document):
    with pytest.raises(ValueError, match="no compiled pipeline"):
        stages(document)


def test_begun(progress):
    """The launcher's own task has no name and no state, and is nothing to show."""
    assert short(progress(recording("begun"))) == {}


def test_running(progress):
    found = progress(recording("running"))
    assert short(found) == {
        "preflight": ("SUCCEEDED", 10.0, 1),
        "download": ("SUCCEEDED", 20.0, 1),
        "pretrain": ("SUCCEEDED", 21.0, 1),
        "merge pretrain": ("WAITING", 2895.0, None),
    }
    assert found["merge pretrain"].pod == "llada-reasoning-g79bx-system-container-driver-2560108004"


def test_succeeded(progress):
    found = short(progress(recording("succeeded")))
    assert list(found) == NAMES
    assert {found[name] for name in DPO} == {("SKIPPED", None, None)}
    assert {found[name][::2] for name in NAMES if name not in DPO} == {("SUCCEEDED", 1)}
    assert found["sft"] == ("SUCCEEDED", 21.0, 1) and found["evaluate base"][1] == 31.0


def test_cached(progress):
    found = short(progress(recording("cached")))
    assert found["preflight"] == ("SUCCEEDED", 10.0, 1)
    trained = set(NAMES) - {"preflight", *DPO}
    assert {found[name] for name in trained} == {("CACHED", 0.0, None)}


def test_failed(progress):
    """Stages that were never reached have a node and no state."""
    found = progress(recording("failed"))
    assert [name for name, row in found.items() if row.state == "FAILED"] == ["pretrain"]
    assert short(found)["pretrain"] == ("FAILED", 85.0, 1)
    assert len(short(found)) == 3
    pod = "llada-reasoning-hr42x-retry-system-container-impl-3944347887"
    assert found["pretrain"].pod == pod


def test_retrying(progress):
    assert short(progress(recording("retrying")))["pretrain"] == ("RUNNING", 394.0, 3)


def test_failed_after_retry(progress):
    found = short(progress(recording("failed-after-retry")))
    assert found["download"] == ("CACHED", 0.0, None)
    assert found["pretrain"] == ("FAILED", 611.0, 2)


def test_a_pod_that_waits_and_the_pause_before_an_attempt(progress):
    answer = recording("retrying")
    (pod,) = [t for t in answer["run_details"]["task_details"] if name_of(t) == "executor(2)"]
    pod["state"] = "PENDING"
    row = progress(answer)["pretrain"]
    assert row.state == "WAITING" and row.waiting == 102.0
    pod["state"] = "FAILED"
    assert progress(answer)["pretrain"].state == "RETRYING"


def test_two_stages_begun_in_the_same_second(progress):
    """Their pods cannot be told apart: both are shown running, each with the pod that waits."""
    answer = recording("succeeded")
    tasks = answer["run_details"]["task_details"]
    begun = [task for task in tasks if task.get("start_time") == "2026-11-26T12:55:48Z"]
    pods = [task for task in begun if name_of(task) == "executor(0)"]
    assert len(pods) == 2
    for task in begun:
        task.update(state="RUNNING", end_time="0001-01-01T00:00:00Z")
    pods[0]["state"] = "PENDING"
    found = progress(answer)
    for name in ("sft", "evaluate base"):
        assert found[name].state == "RUNNING" and found[name].waiting == 2712.0
    pods[1]["state"] = "PENDING"
    assert progress(answer)["sft"].state == "WAITING"


def test_a_server_whose_argo_retries_nothing(progress):
    """Without defaults for every template its nodes have no attempts."""
    answer = {
        "run_id": "x",
        "state": "RUNNING",
        "run_details": {
            "task_details": [
                {"display_name": "download-driver", "state": "FAILED"},
                {"display_name": "preflight", "state": "SUCCEEDED"},
            ]
        },
    }
    found = short(progress(answer))
    assert found == {"preflight": ("SUCCEEDED", None, None), "download": ("FAILED", None, None)}


@pytest.mark.parametrize("name", sorted(path.stem for path in RECORDINGS.glob("*.json")))
def test_no_field_need_be_there(progress, name):
    """Every field of every task may be absent or null, alone or in all tasks."""
    fields = ["task_id", "display_name", "start_time", "end_time", "state", "child_tasks"]
    for field in fields:
        answer = recording(name)
        for task in answer["run_details"]["task_details"]:
            task.pop(field, None)
        assert list(progress(answer)) == NAMES
    for answer in ({}, {"run_details": {}}, {"run_details": {"task_details": [{}]}}):
        assert short(progress({"run_id": "x", **answer})) == {}


def name_of(task):
    return task.get("display_name")
