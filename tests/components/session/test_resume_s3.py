"""Checkpoints in object storage: killed, resumed, and the newest truncated there."""

import os
import signal
import threading

import pytest

from tests.components.conftest import ACCESS, SECRET
from tests.components.forked import wait_for_steps
from tests.components.session.runs import ADAPTED, Runs, curve
from tests.components.storage.faulty_server import Faulty, busy
from tests.ports import free_port


@pytest.fixture
def environment(s3):
    return {
        "AWS_ENDPOINT_URL": s3.endpoint,
        "AWS_ACCESS_KEY_ID": ACCESS,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
    }


def objects(s3, prefix):
    found = s3.client().list_objects_v2(Bucket="bucket", Prefix=prefix).get("Contents", [])
    return {item["Key"]: item["Size"] for item in found}


def test_resumes_from_object_storage(tmp_path, downloaded, s3, environment):
    runs = Runs(tmp_path, downloaded)
    runs.complete(ADAPTED)
    straight = (runs.weights(), curve(runs.records()))
    prefix = f"kept-{os.getpid()}"
    config = {**ADAPTED, "checkpoint_uri": f"s3://bucket/{prefix}", "checkpoint_steps": 6}
    process = runs.start(config, environment=environment)
    wait_for_steps(process, runs.place / "metrics", 14)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    text = runs.complete(config, environment=environment)
    assert "goes on from step" in text and "older checkpoints stay" not in text
    assert (runs.weights(), curve(runs.records())) == straight

    names = objects(s3, prefix)
    steps = {name.split("/step-")[1].split("/")[0] for name in names}
    assert steps == {"00000024", "00000030"}  # the newest two
    newest = next(name for name in names if "step-00000030/" in name and "/state-" in name)
    content = s3.client().get_object(Bucket="bucket", Key=newest)["Body"].read()
    s3.client().put_object(Bucket="bucket", Key=newest, Body=content[:-1])
    text = runs.complete(config, environment=environment)
    assert "checkpoint of step 30 is damaged and not used" in text
    assert "goes on from step 24" in text
    assert (runs.weights(), curve(runs.records())) == straight


def test_the_store_goes_away_while_it_trains(tmp_path, downloaded, nanio):
    """Training goes on without a checkpoint, and the next one follows; the result is the same."""
    runs = Runs(tmp_path, downloaded)
    runs.complete(ADAPTED)
    straight = (runs.weights(), curve(runs.records()))
    away = threading.Event()
    with Faulty(nanio, lambda handler, ask: busy() if away.is_set() else ask()) as server:
        environment = {
            "AWS_ENDPOINT_URL": server.endpoint,
            "AWS_ACCESS_KEY_ID": ACCESS,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
            "STORAGE_RETRY_MINUTES": "0.01",
        }
        place = f"s3://bucket/away-{os.getpid()}"
        config = {**ADAPTED, "checkpoint_uri": place, "checkpoint_steps": 5}
        process = runs.start(config, environment=environment)
        wait_for_steps(process, runs.place / "metrics", 7)
        away.set()
        wait_for_steps(process, runs.place / "metrics", 17)
        away.clear()
        text = runs.finish()
    assert "is not saved, the next one is tried: s3://" in text
    assert "checkpoint of step 30 saved in" in text
    assert (runs.weights(), curve(runs.records())) == straight


def test_a_store_that_is_away_at_the_start_is_no_bad_input(tmp_path, downloaded):
    runs = Runs(tmp_path, downloaded)
    environment = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{free_port()}",
        "AWS_ACCESS_KEY_ID": ACCESS,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "STORAGE_RETRY_MINUTES": "0.01",
    }
    config = {**ADAPTED, "checkpoint_uri": "s3://bucket/kept"}
    text = runs.complete(config, 1, environment=environment)
    assert "does not answer" in text and "Traceback" not in text
