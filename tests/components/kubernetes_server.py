"""A small Kubernetes API over HTTP: the TrainJobs, pods, logs and claims that `trainjob` asks for.

It refuses what the real one refuses (an unknown runtime, a name that is taken, a namespace without
Trainer), keeps what it was sent, and lets a job go through states. It runs nothing unless a test
gives it `on_create`.
"""

import json
import urllib.parse

import yaml

from tests.http_server import LocalServer, body, send

CREATED = {"jobsStatus": [{"name": "node", "active": 1, "ready": 0}]}
WORKFLOW = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "name": "run", "uid": "12-34"}
RUNNING = {"jobsStatus": [{"name": "node", "active": 1, "ready": 1}]}


def ended(kind, message=""):
    """The status of a job that is Complete or Failed."""
    condition = {"type": kind, "status": "True", "reason": "Because", "message": message}
    return {"conditions": [condition], **RUNNING}


class Server(LocalServer):
    """What a Kubernetes API server answers.

    `states` are what questions about a job are answered with, one after the other; the last stays.
    `faults` are statuses, or 0 for a broken connection, of the next questions about a job.
    """

    def __init__(self, *, states=(), on_create=None, trainer=True):
        super().__init__()
        self.states, self.on_create, self.trainer = list(states), on_create, trainer
        self.states = self.states or [RUNNING, ended("Complete")]
        self.runtimes, self.claims, self.denied = {"torch-distributed"}, {"training"}, set()
        self.jobs, self.created, self.deleted, self.faults = {}, [], [], []
        self.lines, self.pods, self.since = [], ["node-0-0-abc"], []

    def kubeconfig(self, path, namespace="llada"):
        """Writes how to reach this server, and returns where."""
        path.write_text(
            yaml.safe_dump(
                {
                    "current-context": "here",
                    "contexts": [
                        {
                            "name": "here",
                            "context": {"cluster": "c", "user": "u", "namespace": namespace},
                        }
                    ],
                    "clusters": [{"name": "c", "cluster": {"server": self.url}}],
                    "users": [{"name": "u", "user": {"token": "secret"}}],
                }
            )
        )
        return path

    def answer(self, handler):
        """Authorises, dispatches and writes the reply."""
        method = handler.command
        path, _, query = handler.path.partition("?")
        sent = body(handler)
        parts = path.strip("/").split("/")
        if handler.headers.get("authorization") != "Bearer secret":
            send(handler, *refusal(401, "Unauthorized", "Unauthorized"))
        elif (method, parts[-1]) in self.denied or (method, parts[-2]) in self.denied:
            said = f"pods is forbidden: cannot {method} {path}"
            send(handler, *refusal(403, "Forbidden", said))
        elif "trainjobs" in parts and method == "GET" and self.faults:
            if status := self.faults.pop(0):
                send(handler, *refusal(status, "ServiceUnavailable", "try again"))
            else:
                handler.connection.close()
        else:
            arguments = dict(urllib.parse.parse_qsl(query))
            send(handler, *self.reply(method, parts, arguments, sent))

    def reply(self, method, parts, query, sent):
        """Status and reply of one request."""
        if parts[:3] == ["apis", "trainer.kubeflow.org", "v1alpha1"]:
            if not self.trainer:
                return 404, "404 page not found\n"
            return self.trainjobs(method, parts[5:], sent)
        match (method, *parts[4:]):
            case "GET", "persistentvolumeclaims", name if name in self.claims:
                return 200, {"metadata": {"name": name}}
            case "GET", "pods":
                assert "job-completion-index=0" in query["labelSelector"]
                return 200, {"items": [pod(name, n) for n, name in enumerate(self.pods)]}
            case "GET", "pods", name:
                return 200, pod(name, 0)
            case "GET", "pods", _, "log":
                assert query["timestamps"] == "true" and query["container"] == "node"
                self.since.append(query.get("sinceTime"))
                since = query.get("sinceTime", "")[:19]
                return 200, "".join(f"{line}\n" for line in self.lines if line[:19] >= since)
        return refusal(404, "NotFound", f"{parts[-1]} not found")

    def trainjobs(self, method, parts, sent):
        match (method, *parts):
            case "POST", "trainjobs":
                manifest = json.loads(sent)
                name, runtime = manifest["metadata"]["name"], manifest["spec"]["runtimeRef"]["name"]
                if runtime not in self.runtimes:
                    return refusal(403, "Forbidden", DENIED.format(runtime=runtime))
                if name in self.jobs:
                    return refusal(409, "AlreadyExists", f"{name} already exists")
                self.created.append(manifest)
                self.jobs[name] = manifest
                if self.on_create:
                    self.on_create(manifest)
                return 201, manifest
            case "GET", "trainjobs", name if name in self.jobs:
                state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
                return 200, {**self.jobs[name], "status": state() if callable(state) else state}
            case "DELETE", "trainjobs", name if name in self.jobs:
                self.deleted.append(name)
                del self.jobs[name]
                return 200, {"kind": "Status", "status": "Success"}
        return refusal(404, "NotFound", f'trainjobs.trainer.kubeflow.org "{parts[-1]}" not found')


DENIED = (
    'admission webhook "validator.trainjob.trainer.kubeflow.org" denied the request: '
    "spec.RuntimeRef: Invalid value: "
    'ClusterTrainingRuntime.trainer.kubeflow.org "{runtime}" not found'
)


def refusal(status, reason, message):
    body = {"kind": "Status", "status": "Failure", "reason": reason, "message": message}
    return status, {**body, "code": status}


def pod(name, age):
    container = {"name": "main", "image": "registry.example/llada@sha256:12"}
    metadata = {"name": name, "creationTimestamp": f"2026-01-01T00:00:{age:02d}Z"}
    return {
        "metadata": {**metadata, "ownerReferences": [{**WORKFLOW, "controller": True}]},
        "spec": {"containers": [container]},
        "status": {"phase": "Running"},
    }
