"""The calls of MLflow's REST API that a stage makes, over HTTP, refusing what MLflow refuses.

It was compared with MLflow 3.18.0, which answers the same calls alike.
"""

import json
import re
import urllib.parse

from tests.http_server import LocalServer, body, send

STATES = {"RUNNING", "SCHEDULED", "FINISHED", "FAILED", "KILLED"}


class Server(LocalServer):
    """Keeps experiments and runs. `away` makes it answer 503, as behind a proxy."""

    def __init__(self, *, token=None):
        super().__init__()
        self.token, self.away = token, False
        self.experiments, self.runs, self.batches, self.headers = {}, {}, [], []

    def answer(self, handler):
        sent = body(handler)
        path, _, query = handler.path.partition("?")
        self.headers.append(handler.headers)  # whatever the case of their names
        if self.away:
            return send(handler, 503, {"message": "away"})
        if self.token and handler.headers.get("Authorization") != self.token:
            return send(handler, 401, {"message": "You are not authenticated."})
        values = json.loads(sent) if sent else dict(urllib.parse.parse_qsl(query))
        send(handler, *self.reply(path.removeprefix("/api/2.0/mlflow/"), values))

    def reply(self, name, values):
        match name:
            case "experiments/get-by-name":
                experiment = self.experiments.get(values["experiment_name"])
                if experiment is None:
                    return 404, {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "none"}
                return 200, {"experiment": {"experiment_id": experiment}}
            case "experiments/create":
                self.experiments[values["name"]] = f"{len(self.experiments) + 1}"
                return 200, {"experiment_id": self.experiments[values["name"]]}
            case "runs/create":
                return self.create(values)
            case "runs/search":
                (key, word) = re.fullmatch(r"tags\.(\w+) = '(\w+)'", values["filter"]).groups()
                runs = [run for run in self.runs.values() if run["tags"].get(key) == word]
                return 200, {"runs": [{"info": run["info"]} for run in runs]} if runs else {}
            case "runs/log-batch":
                return self.log(self.runs[values["run_id"]], values)
            case "runs/update":
                assert values["status"] in STATES
                self.runs[values["run_id"]]["info"] |= values
                return 200, {"run_info": {}}
        return 404, {"message": f"no {name}"}

    def create(self, values):
        assert values["experiment_id"] in self.experiments.values()
        name = f"run-{len(self.runs)}"
        info = {"run_id": name, "status": "RUNNING", "run_name": values["run_name"]}
        tags = {tag["key"]: tag["value"] for tag in values["tags"]}
        self.runs[name] = {"info": info, "tags": tags, "metrics": [], "params": {}}
        return 200, {"run": {"info": info}}

    def log(self, run, values):
        metrics, params = values.get("metrics", []), values.get("params", [])
        if len(metrics) > 1000 or len(params) > 100 or any(len(p["value"]) > 6000 for p in params):
            return 400, {"error_code": "INVALID_PARAMETER_VALUE", "message": "too many"}
        for each in params:
            if run["params"].setdefault(each["key"], each["value"]) != each["value"]:
                message = f"Changing param values is not allowed: {each['key']}"
                return 400, {"error_code": "INVALID_PARAMETER_VALUE", "message": message}
        assert all(isinstance(each["step"], int) and each["timestamp"] > 0 for each in metrics)
        self.batches.append(len(metrics))
        run["metrics"] += metrics
        return 200, {}
