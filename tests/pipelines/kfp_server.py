"""A small Kubeflow Pipelines server: the v2beta1 REST endpoints that `submit` needs, over HTTP.

It refuses what the real one refuses (wrong token, unknown parameter), keeps what it was sent, and
answers questions about a run with recordings of a real server (`tests/data/kfp`), the next one with
every question. It runs nothing.
"""

import email
import json
import urllib.parse
from pathlib import Path

import yaml

from pipelines.metadata import SERVICE
from tests.http_server import LocalServer, body, send
from tests.pipelines import store

API = "/apis/v2beta1"
RECORDINGS = Path(__file__).parents[1] / "data" / "kfp"
GOOD = ("begun", "running", "succeeded")
FAILED = ("begun", "running", "failed")


def recording(name):
    """The server's answer about a run."""
    return json.loads((RECORDINGS / f"{name}.json").read_text())


class Server(LocalServer):
    """What a Kubeflow Pipelines server answers."""

    def __init__(
        self,
        *,
        token=None,
        multi_user=False,
        answers=GOOD,
        after_retry=GOOD[-1:],
        logs=None,
        artifacts=None,
        kept=None,
        faults=(),
        health=200,
        page=False,
    ):
        super().__init__()
        self.token, self.multi_user, self.logs = token, multi_user, logs or {}
        self.answers, self.after_retry = answers, after_retry
        self.kept, self.sent_by_ui = kept or {}, []
        self.artifacts = artifacts or (lambda preference: [])
        self.health, self.page = health, page
        self.faults = list(faults)
        self.requests, self.tokens = [], []
        self.pipelines, self.versions, self.experiments, self.runs = {}, {}, {}, {}
        self.asked = 0

    def answer(self, handler):
        """Authorises, records, dispatches and writes the reply."""
        path, _, query = handler.path.partition("?")
        given = handler.headers.get("authorization")
        self.requests.append((handler.command, path))
        self.tokens.append(given)
        sent = body(handler)
        if self.token and given != f"Bearer {self.token}":
            send(handler, 401, {"error_details": "Unauthorized"})
        else:
            arguments = dict(urllib.parse.parse_qsl(query))
            content = handler.headers.get("Content-Type", "")
            if path == "/k8s/pod/logs":
                log = self.logs.get(arguments["podname"])
                send(
                    handler, 200 if log else 404, log or "pod not found", Content_Type="text/plain"
                )
                return
            if path == "/artifacts/get":
                self.sent_by_ui.append(arguments)
                address = "{source}://{bucket}/{key}".format(**arguments)
                log = self.kept.get(address)
                is_page = not log or log.startswith("<")
                kind = "text/html" if is_page else ""  # the UI names no type of what it passes on
                send(handler, 200 if log else 500, log or "no such key", Content_Type=kind)
                return
            if path.startswith(f"/{SERVICE}/"):
                send(handler, 200, self.metadata(path, sent), Content_Type="application/grpc-web")
                return
            send(handler, *self.reply(handler.command, path, arguments, sent, content))

    def reply(self, method, path, query, sent, content):
        """Status and JSON of one request."""
        parts = path.removeprefix(API).strip("/").split("/")
        match (method, *parts):
            case "GET", "healthz":
                return self.health, "<html>" if self.page else {"multi_user": self.multi_user}
            case "GET", "pipelines":
                return 200, {"pipelines": find(self.pipelines, query)}
            case "POST", "pipelines", "upload":
                spec = uploaded(sent, content)
                pipeline = add(self.pipelines, "pipeline_id", query)
                self.add_version({**query, "pipelineid": pipeline["pipeline_id"]}, spec)
                return 200, pipeline
            case "POST", "pipelines", "upload_version":
                return 200, self.add_version(query, uploaded(sent, content))
            case "GET", "pipelines", _, "versions":
                return 200, {"pipeline_versions": find(self.versions, query)}
            case "GET", "experiments":
                return 200, {"experiments": find(self.experiments, query)}
            case "POST", "experiments":
                return 200, add(self.experiments, "experiment_id", json.loads(sent))
            case "POST", "runs":
                return self.create_run(json.loads(sent))
            case "GET", "pipelines", _, "versions", version:
                return 200, self.stored(self.versions[version])
            case "POST", "runs", name if name.endswith(":retry"):
                self.answers, self.asked = self.after_retry, 0
                return 200, {}
            case "GET", "runs", run if run in self.runs:
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
        self.asked = 0
        return 200, add(self.runs, "run_id", run)

    def metadata(self, path, sent):
        """What KFP's metadata store answers: a context's number is the place of its run."""
        method = path.rpartition("/")[2]
        if method == "GetContextByTypeAndName":
            asked = store.parse(method + "Request", sent)
            place = list(self.runs).index(asked.context_name)
            return store.frame(method + "Response", {"context": {"id": 300 + place}})
        place = store.parse(method + "Request", sent).context_id - 300
        run = list(self.runs.values())[place]
        preference = run["runtime_config"].get("parameters", {}).get("preference", "grpo")
        made = [store.artifact(properties) for properties in self.artifacts(preference)]
        return store.frame(method + "Response", {"artifacts": made})

    def stored(self, version):
        """A version as the server keeps it: both documents of the file in one."""
        pipeline, platform = version["spec"]
        both = {"pipeline_spec": pipeline, "platform_spec": platform}
        return {key: value for key, value in version.items() if key != "spec"} | {
            "pipeline_spec": both
        }

    def run(self, run):
        """The next recording, and the last one ever after."""
        if self.faults:
            return self.faults.pop(0), {"error_details": "try again"}
        answer = self.answers[min(self.asked, len(self.answers) - 1)]
        self.asked += 1
        answer = answer if isinstance(answer, dict) else recording(answer)
        kept = ("run_id", "pipeline_version_reference")
        return 200, answer | {key: run[key] for key in kept if key in run}


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


def uploaded(form, content):
    """The documents of the YAML file in a multipart form."""
    message = email.message_from_bytes(f"Content-Type: {content}\r\n\r\n".encode() + form)
    (part,) = message.get_payload()
    return list(yaml.safe_load_all(part.get_payload(decode=True)))
