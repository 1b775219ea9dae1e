"""A run at an MLflow server, by its REST API: a few calls, for which no client is installed.

A thread speaks to the server, and sends many records at a time, so that training never waits for
it; what it does not take is sent again with the next ones. Kubeflow Pipelines makes a run for every
task where its MLflow plugin is on, names it in MLFLOW_RUN_ID and ends it itself; else the run is
ours, and a resumed stage finds it by a tag.
"""

import base64
import json
import queue
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from components import PROJECT
from components.failure import as_line
from model.options import check
from model.training.preemption import Preempted

URI, RUN = "MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID"
ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")
TAG = "llada_run"
PAUSE = 5.0  # seconds between two batches
TIMEOUT = 10.0  # seconds of a request
PATIENCE = 20.0  # seconds that the end of a stage waits for the last batch
METRICS_AT_ONCE, PARAMETERS_AT_ONCE, LONGEST = 1000, 100, 500  # MLflow's own limits


@dataclass(frozen=True, kw_only=True)
class Server:
    """The address of a server, and what a request to it carries."""

    address: str
    experiment: str = PROJECT
    run: str | None = None
    """The run that somebody else has made for this stage, and will end."""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)

    def call(self, method: str, name: str, /, **values: Any) -> dict[str, Any]:
        """One call of the API. Raises OSError where it fails, with the server's reason."""
        url = f"{self.address}/api/2.0/mlflow/{name}"
        data = None
        if method == "GET":
            url += f"?{urllib.parse.urlencode(values)}"
        else:
            data = json.dumps(values).encode()
        headers = {"Content-Type": "application/json", **self.headers}
        request = urllib.request.Request(url, data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
                return dict(json.loads(answer.read() or "{}"))
        except urllib.error.HTTPError as error:
            raise Refused(f"{self.address}: {error.code} {_reason(error)}", error.code) from None
        except (urllib.error.URLError, ValueError) as error:
            raise OSError(f"{self.address}: {getattr(error, 'reason', error)}") from None


class Refused(OSError):
    """A request that the server has answered with an error."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


def server(environment: Mapping[str, str]) -> Server | None:
    """The server that the environment names; None where it names none.

    The variables are those of MLflow's own client. Raises ValueError for another address than HTTP.
    """
    if not (address := environment.get(URI)):
        return None
    is_web = address.startswith(("http://", "https://"))
    check(URI, address, is_web, "an address that begins with http:// or https://")
    headers = {}
    if workspace := environment.get("MLFLOW_WORKSPACE"):
        headers["X-MLFLOW-WORKSPACE"] = workspace
    name, word = (environment.get(f"MLFLOW_TRACKING_{key}") for key in ("USERNAME", "PASSWORD"))
    token = environment.get("MLFLOW_TRACKING_TOKEN")
    if not token and environment.get("MLFLOW_TRACKING_AUTH", "").startswith("kubernetes"):
        token = ACCOUNT.read_text().strip() if ACCOUNT.is_file() else None
    if name and word:
        pair = base64.b64encode(f"{name}:{word}".encode()).decode()
        headers["Authorization"] = f"Basic {pair}"
    elif token:
        headers["Authorization"] = f"Bearer {token}"
    return Server(
        address=address.rstrip("/"),
        experiment=environment.get("MLFLOW_EXPERIMENT_NAME") or PROJECT,
        run=environment.get(RUN) or None,
        headers=headers,
    )


class Mlflow:
    """A run that takes the records of a stage."""

    def __init__(self, server: Server, stage: str, config: Mapping[str, Any], key: str) -> None:
        """The run is found by the tag `key`, or begun with the fields of the configuration."""
        self.server, self.is_ours = server, server.run is None
        self.stage, self.config, self.key = stage, config, key
        self.run: str | None = None
        self._metrics: queue.Queue[dict[str, Any]] = queue.Queue()
        self._is_over = threading.Event()
        self._fault: str | None = None
        self._thread = threading.Thread(target=self._send, daemon=True)
        self._thread.start()

    def log(self, record: Mapping[str, Any]) -> None:
        """Every figure of a step; texts and lists are none."""
        now = int(time.time() * 1000)
        for name, value in record.items():
            if name != "step" and isinstance(value, int | float) and not isinstance(value, bool):
                metric = {"key": name, "value": value, "timestamp": now}
                self._metrics.put({**metric, "step": record.get("step", 0)})

    def close(self, error: BaseException | None) -> None:
        """Sends what is left and ends a run of ours. Raises OSError for what could not be sent."""
        self._is_over.set()
        self._thread.join(PATIENCE)
        if self._fault is not None or self._thread.is_alive():
            raise OSError(f"the last figures were not sent: {self._fault or 'it takes too long'}")
        if self.is_ours and self.run is not None:
            is_stopped = isinstance(error, Preempted) or not isinstance(error, Exception)
            state = "FINISHED" if error is None else "KILLED" if is_stopped else "FAILED"
            self._update(self.run, state, end_time=int(time.time() * 1000))

    def _send(self) -> None:
        """Sends what has come in the last seconds, and what was not taken before."""
        batch: list[dict[str, Any]] = []
        is_last = False
        while not is_last:
            is_last = self._is_over.wait(PAUSE)
            while not self._metrics.empty():
                batch.append(self._metrics.get())
            try:
                self.run = self.run or self._open()
                while batch:
                    self._log_batch(self.run, metrics=batch[:METRICS_AT_ONCE])
                    batch = batch[METRICS_AT_ONCE:]
                self._fault = None
            except (OSError, LookupError, TypeError) as error:  # or an answer of another form
                self._say(str(error) or repr(error))

    def _open(self) -> str:
        """The id of the run that takes the records."""
        run = self.server.run or self._search()
        if run and self.is_ours:
            self._update(run, "RUNNING")
            return run
        run = run or self._create()
        flat = [{"key": key, "value": str(value)[:LONGEST]} for key, value in _fields(self.config)]
        for first in range(0, len(flat), PARAMETERS_AT_ONCE):
            self._log_batch(run, params=flat[first : first + PARAMETERS_AT_ONCE])
        return run

    def _say(self, fault: str) -> None:
        if self._fault is None:
            line = f"MLflow: {fault}; the figures are sent with the next ones"
            print(as_line(line), flush=True)
        self._fault = fault

    def _search(self) -> str | None:
        filters = {"filter": f"tags.{TAG} = '{self.key}'", "max_results": 1}
        ids = [self._experiment()]
        runs = self.server.call("POST", "runs/search", experiment_ids=ids, **filters).get("runs")
        return str(runs[0]["info"]["run_id"]) if runs else None

    def _experiment(self) -> str:
        """The experiment's id; it is made unless it is there."""
        name = self.server.experiment
        try:
            answer = self.server.call("GET", "experiments/get-by-name", experiment_name=name)
        except Refused as error:
            if error.code != 404:
                raise
            return str(self.server.call("POST", "experiments/create", name=name)["experiment_id"])
        return str(answer["experiment"]["experiment_id"])

    def _create(self) -> str:
        answer = self.server.call(
            "POST",
            "runs/create",
            experiment_id=self._experiment(),
            run_name=self.stage,
            start_time=int(time.time() * 1000),
            tags=[{"key": TAG, "value": self.key}, {"key": "mlflow.source.name", "value": PROJECT}],
        )
        return str(answer["run"]["info"]["run_id"])

    def _log_batch(self, run: str, **values: Any) -> None:
        self.server.call("POST", "runs/log-batch", run_id=run, **values)

    def _update(self, run: str, status: str, **values: Any) -> None:
        self.server.call("POST", "runs/update", run_id=run, status=status, **values)


def _fields(config: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """The fields of a configuration and of those within it, by their path."""
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from _fields(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", value


def _reason(error: urllib.error.HTTPError) -> str:
    text = error.read().decode(errors="replace")
    try:
        return str(json.loads(text)["message"])
    except (ValueError, KeyError, TypeError):
        return text[:200] or str(error.reason)
