"""The progress of a stage in its TrainJob's status, told to a server as Kubeflow Trainer has it."""

import json

import pytest
from kubeflow_trainer_api.models import TrainerV1alpha1UpdateTrainJobStatusRequest as Request

from components.session import trainer
from components.session.metrics import History, MetricsLog
from tests.http_server import LocalServer, body, send

RECORD = {
    "loss": 0.5,
    "learning_rate": 1e-5,
    "tokens_per_second": 10.0,
    "loss_by_ratio": {"0.1": 2},
}


class Trainer(LocalServer):
    """Keeps what it is sent, and answers with `status`."""

    def __init__(self, status=200):
        super().__init__()
        self.status, self.sent = status, []

    def answer(self, handler):
        self.sent.append((handler.path, handler.headers["Authorization"], body(handler)))
        send(handler, self.status, {})


@pytest.fixture
def told(tmp_path, monkeypatch):
    """Logs steps 1 to 4 beside a server, and returns what was sent to it."""

    def run(server):
        (tmp_path / "token").write_text("secret\n")
        monkeypatch.setenv(trainer.SERVER, f"{server.url}/namespaces/llada/trainjobs/sft-1/status")
        monkeypatch.setenv(trainer.TOKEN, str(tmp_path / "token"))
        monkeypatch.delenv(trainer.CERTIFICATE, raising=False)
        monkeypatch.setattr(trainer, "EVERY", 0.0)
        history = History(wandb_id="x")
        with MetricsLog(tmp_path, stage="sft", total=4, config={}, history=history) as log:
            for step in range(1, 5):
                log({"step": step, **RECORD})
        return server.sent

    return run


def test_the_status_has_the_progress_and_the_figures(told):
    with Trainer() as server:
        sent = told(server)
    path, token, text = sent[-1]
    assert path == "/namespaces/llada/trainjobs/sft-1/status" and token == "Bearer secret"
    status = json.loads(text)["trainerStatus"]
    understood = Request.from_json(text.decode()).to_dict()["trainerStatus"]
    # Trainer's own model keeps every field; the time is no text any more.
    assert understood == {**status, "lastUpdatedTime": understood["lastUpdatedTime"]}
    assert (status["progressPercentage"], status["estimatedRemainingSeconds"]) == (100, 0)
    figures = {entry["name"]: entry["value"] for entry in status["metrics"]}
    assert figures == {"step": "4", "loss": "0.5", "learning_rate": "1e-05"} | {
        "tokens_per_second": "10"
    }
    assert json.loads(sent[0][2])["trainerStatus"]["progressPercentage"] == 25


@pytest.mark.parametrize("status", [401, 500])
def test_a_server_that_refuses_does_not_end_the_training(told, capsys, status):
    with Trainer(status) as server:
        assert told(server)
    said = capsys.readouterr().out
    assert said.count("no progress in the TrainJob's status") == 1 and str(status) in said


def test_without_a_server_nothing_is_sent(monkeypatch):
    monkeypatch.delenv(trainer.SERVER, raising=False)
    assert trainer.TrainerStatus.here(4) is None
