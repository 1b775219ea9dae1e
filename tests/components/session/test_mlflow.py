"""Figures at an MLflow server: by the stage's own run, or the one that Kubeflow made for it."""

import os
import signal
import time

import pytest

from components.session import mlflow
from model.training.preemption import Preempted
from tests.components.forked import wait_for_steps
from tests.components.session.mlflow_server import Server
from tests.components.session.runs import ADAPTED, Runs

CONFIG = {"steps": 3, "lora": {"rank": 4, "targets": ["q_proj"]}, "data": "x" * 1000}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(mlflow, "PAUSE", 0.05)


def connect(server, **variables):
    return mlflow.server({"MLFLOW_TRACKING_URI": f"{server.url}/", **variables})


def begin(server, key="abc", **variables):
    return mlflow.Mlflow(connect(server, **variables), "sft", CONFIG, key)


def figures(run, name):
    return [(metric["step"], metric["value"]) for metric in run["metrics"] if metric["key"] == name]


def test_a_run_of_our_own():
    with Server() as server:
        log = begin(server)
        for step in (1, 2, 3):
            log.log({"step": step, "loss": 1 / step, "loss_by_ratio": [1.0, None], "good": True})
        log.close(None)
    (run,) = server.runs.values()
    assert figures(run, "loss") == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
    assert {metric["key"] for metric in run["metrics"]} == {"loss"}
    assert run["params"]["lora.rank"] == "4" and len(run["params"]["data"]) == 500
    assert run["info"]["status"] == "FINISHED" and run["info"]["end_time"] > 0
    assert server.experiments == {"llada-reasoning": "1"}


def test_a_resumed_stage_goes_on_with_its_run():
    with Server() as server:
        begin(server).close(Preempted("told to"))
        (run,) = server.runs.values()
        assert run["info"]["status"] == "KILLED"
        log = begin(server)
        log.log({"step": 2, "loss": 0.5})
        while not run["metrics"]:
            time.sleep(0.01)
        assert run["info"]["status"] == "RUNNING"
        log.close(ValueError("bad"))
        begin(server, key="def").close(None)
    assert run["info"]["status"] == "FAILED" and figures(run, "loss") == [(2, 0.5)]
    assert len(server.runs) == 2


def test_the_run_that_kubeflow_made_is_not_ended():
    with Server() as server:
        server.reply("experiments/create", {"name": "theirs"})
        own = {"experiment_id": "1", "run_name": "task", "tags": []}
        _, answer = server.create(own)
        name = answer["run"]["info"]["run_id"]
        variables = {"MLFLOW_RUN_ID": name, "MLFLOW_WORKSPACE": "team"}
        variables["MLFLOW_TRACKING_TOKEN"] = "secret"
        for _ in range(2):
            log = begin(server, **variables)
            log.log({"step": 1, "loss": 0.5})
            log.close(None)
    assert list(server.runs) == [name] and server.runs[name]["info"]["status"] == "RUNNING"
    assert len(figures(server.runs[name], "loss")) == 2
    assert server.headers[-1]["X-MLFLOW-WORKSPACE"] == "team"
    assert server.headers[-1]["Authorization"] == "Bearer secret"


def test_what_the_server_does_not_take_is_sent_again(capsys):
    with Server() as server:
        log = begin(server)
        server.away = True
        for step in range(1, 1501):
            log.log({"step": step, "loss": 1.0})
        while log._fault is None:
            time.sleep(0.01)
        assert capsys.readouterr().out.count("503 away; the figures are sent with the next") == 1
        server.away = False
        log.close(None)
    (run,) = server.runs.values()
    assert [step for step, _ in figures(run, "loss")] == list(range(1, 1501))
    assert max(server.batches) == 1000


def test_basic_credentials_and_other_addresses():
    with Server(token="Basic bWU6d29yZA==") as server:
        word = {"MLFLOW_TRACKING_USERNAME": "me", "MLFLOW_TRACKING_PASSWORD": "word"}
        begin(server, **word).close(None)
        with pytest.raises(OSError, match="401 You are not authenticated"):
            begin(server).close(None)
    with pytest.raises(ValueError, match="MLFLOW_TRACKING_URI='sqlite:///x', allowed: an address"):
        mlflow.server({"MLFLOW_TRACKING_URI": "sqlite:///x"})
    assert mlflow.server({}) is None and "word" not in repr(connect(server, **word))


def test_a_stage_logs_while_it_trains_and_goes_on_where_the_server_is_away(tmp_path, downloaded):
    runs = Runs(tmp_path, downloaded)
    config = {**ADAPTED, "checkpoint_uri": str(tmp_path / "state"), "checkpoint_steps": 5}
    with Server() as server:
        environment = {"MLFLOW_TRACKING_URI": server.url}
        process = runs.start(config, environment=environment)
        wait_for_steps(process, runs.place / "metrics", 7)
        os.kill(process.pid, signal.SIGTERM)
        runs.finish(143)
        server.away = True
        text = runs.complete(config, environment=environment)
    (run,) = server.runs.values()
    assert "the last figures were not sent: " in text and "the stage goes on without it" in text
    assert len(runs.records()) == 30
    steps = [step for step, _ in figures(run, "loss")]
    assert steps == list(range(1, len(steps) + 1)) and len(steps) >= 7
    assert run["info"]["status"] == "KILLED"
