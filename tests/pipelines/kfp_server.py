"""A small Kubeflow Pipelines server: the v2beta1 REST endpoints that `submit` needs, over HTTP.

It refuses what the real one refuses (wrong token, unknown parameter), keeps what it was sent, and
its runs advance with every question. It runs nothing.
"""

import email
import json
import threading
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import yaml

API = "/apis/v2beta1"
STARTED = "2026-01-01T00:00:00Z"
ENDED = "2026-01-01T00:00:07Z"
TASKS = ("download", "pretrain")


class Server:
    """Serves on a free port of this machine; `with` starts and stops it."""

    def __init__(
        self, *, token=None, multi_user=False, last="SUCCEEDED", faults=(), health=200, page=False
    ):
        self.token, self.multi_user, self.last = token, multi_user, last
        self.health, self.page = health, page
        self.faults = list(faults)
        self.requests, self.tokens = [], []
        self.pipelines, self.versions, self.experiments, self.runs = {}, {}, {}, {}
        self.asked = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                outer.answer(self, "GET")

            def do_POST(self):
                outer.answer(self, "POST")

            def log_message(self, *_):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"

    def __enter__(self):
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.http.shutdown()
        self.http.server_close()

    def answer(self, handler, method):
        """Authorises, records, dispatches and writes the reply."""
        path, _, query = handler.path.partition("?")
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        given = handler.headers.get("authorization")
        self.requests.append((method, path))
        self.tokens.append(given)
        if self.token and given != f"Bearer {self.token}":
            status, reply = 401, {"error_details": "Unauthorized"}
        else:
            arguments = dict(urllib.parse.parse_qsl(query))
            content = handler.headers.get("Content-Type", "")
            status, reply = self.reply(method, path, arguments, body, content)
        text = (reply if isinstance(reply, str) else json.dumps(reply)).encode()
        handler.send_response(status)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(text)))
        handler.end_headers()
        handler.wfile.write(text)

    def reply(self, method, path, query, body, content):
        """Status and JSON of one request."""
        parts = path.removeprefix(API).strip("/").split("/")
        match (method, *parts):
            case "GET", "healthz":
                return self.health, "<html>" if self.page else {"multi_user": self.multi_user}
            case "GET", "pipelines":
                return 200, {"pipelines": find(self.pipelines, query)}
            case "POST", "pipelines", "upload":
                spec = uploaded(body, content)
                pipeline = add(self.pipelines, "pipeline_id", query)
                self.add_version({**query, "pipelineid": pipeline["pipeline_id"]}, spec)
                return 200, pipeline
            case "POST", "pipelines", "upload_version":
                return 200, self.add_version(query, uploaded(body, content))
            case "GET", "pipelines", _, "versions":
                return 200, {"pipeline_versions": find(self.versions, query)}
            case "GET", "experiments":
                return 200, {"experiments": find(self.experiments, query)}
            case "POST", "experiments":
                return 200, add(self.experiments, "experiment_id", json.loads(body))
            case "POST", "runs":
                return self.create_run(json.loads(body))
            case "GET", "runs", run:
                return self.run(self.runs[run])
        return 404, {"error_details": f"no {method} {path}"}

    def add_version(self, query, spec):
        version = add(self.versions, "pipeline_version_id", query)
        version["pipeline_id"], version["spec"] = query["pipelineid"], spec
        return {key: value for key, value in version.items() if key != "spec"}

    def create_run(self, run):
        """Refuses parameters that the pipeline does not have, as the real server does."""
        version = self.versions[run["pipeline_version_reference"]["pipeline_version_id"]]
        known = version["spec"][0]["root"]["inputDefinitions"]["parameters"]
        for name in run["runtime_config"].get("parameters", {}):
            if name not in known:
                return 400, {"error_details": f"unknown parameter {name}"}
        return 200, add(self.runs, "run_id", run)

    def run(self, run):
        """One more task done with every question; the last one decides."""
        if self.faults:
            return self.faults.pop(0), {"error_details": "try again"}
        self.asked += 1
        done = min(self.asked - 1, len(TASKS))
        states = ["SUCCEEDED"] * done + ["RUNNING", *["PENDING"] * len(TASKS)]
        if done == len(TASKS):
            states[len(TASKS) - 1] = self.last
        tasks = [{"task_id": "0", "display_name": "root", "state": "RUNNING"}]
        for number, (name, state) in enumerate(zip(TASKS, states, strict=False), 1):
            task = {"task_id": str(number), "display_name": name, "state": state}
            if state != "PENDING":
                task["start_time"] = STARTED
            if state in ("SUCCEEDED", "FAILED"):
                task["end_time"] = ENDED
            if state == "FAILED":
                task["error"] = {"message": "the loss is nan"}
            tasks.append(task)
        state = self.last if done == len(TASKS) else "RUNNING"
        return 200, {**run, "state": state, "run_details": {"task_details": tasks}}


def add(table, key, given):
    entry = {"display_name": given.get("name"), **given, key: f"{key}-{len(table)}"}
    table[entry[key]] = entry
    return entry


def find(table, query):
    """Entries with the display name that the filter asks for; without their uploaded content."""
    wanted = None
    if query.get("filter"):
        (predicate,) = json.loads(query["filter"])["predicates"]
        assert predicate["key"] == "display_name"
        wanted = predicate["stringValue"]
    return [
        {key: value for key, value in entry.items() if key != "spec"}
        for entry in table.values()
        if wanted in (None, entry["display_name"])
    ]


def uploaded(body, content):
    """The documents of the YAML file in a multipart form."""
    message = email.message_from_bytes(f"Content-Type: {content}\r\n\r\n".encode() + body)
    (part,) = message.get_payload()
    return list(yaml.safe_load_all(part.get_payload(decode=True)))
