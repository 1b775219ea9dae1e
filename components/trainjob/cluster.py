"""The Kubernetes API as this stage needs it: one job, its first node's log, and errors in one line.

What the job is, is `manifest.py`'s; when to ask, `job.py`'s. Together with `components.storage` the
only module of the stages that opens a connection.
"""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import urllib3
from kubernetes import client, config

from components.trainjob.manifest import API_VERSION, NODE

GROUP, VERSION = API_VERSION.split("/")
JOBS = {"group": GROUP, "version": VERSION, "plural": "trainjobs"}
TIMEOUT = (10, 60)  # seconds to connect, and between two pieces of an answer
POD, CONTAINER = "KFP_POD_NAME", "main"  # KFP names its pod in the environment
NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
RUNTIMES = "kubectl get clustertrainingruntimes; kubectl get trainingruntimes"


class Lost(Exception):
    """No answer, or one that a later question may better; the message says which."""


class Cluster:
    """The API server that the pod's service account or the kubeconfig names."""

    def __init__(self, namespace: str | None) -> None:
        settings = client.Configuration()
        try:
            if "KUBERNETES_SERVICE_HOST" in os.environ:
                config.load_incluster_config(settings)
                own = NAMESPACE.read_text().strip()
            else:
                config.load_kube_config(client_configuration=settings)
                own = config.list_kube_config_contexts()[1]["context"].get("namespace", "default")
        except (config.ConfigException, OSError) as error:
            raise ValueError(
                f"no cluster: {error}; run in a pod, or name a kubeconfig in KUBECONFIG"
            ) from None
        settings.retries = False
        self.host, self.namespace = settings.host, namespace or own
        api = client.ApiClient(settings)
        self.jobs, self.core = client.CustomObjectsApi(api), client.CoreV1Api(api)
        self.limits: dict[str, Any] = {"_request_timeout": TIMEOUT}

    def check_claim(self, claim: str) -> None:
        """Raises ValueError where the namespace lacks the claim."""
        with self._explained("read", f"claim {claim}"):
            try:
                self.core.read_namespaced_persistent_volume_claim(
                    claim, self.namespace, **self.limits
                )
            except client.ApiException as error:
                if error.status != 404:
                    raise
                raise ValueError(
                    f"claim={claim!r}: namespace {self.namespace} has no such volume claim; "
                    f"try: kubectl -n {self.namespace} get persistentvolumeclaims"
                ) from None

    def own_image(self) -> str:
        """The image of the pod that this is. Raises ValueError where it is none of KFP's."""
        name = os.environ.get(POD)
        if not name:
            raise ValueError("image=None, allowed: an image, as this is not a pod of a pipeline")
        with self._explained("read", f"pod {name}"):
            pod = self.core.read_namespaced_pod(name, self.namespace, **self.limits)
        return next(c.image for c in pod.spec.containers if c.name == CONTAINER)

    def create(self, manifest: dict[str, Any]) -> bool:
        """Creates a job; False where one of its name is there. Raises ValueError on a refusal."""
        name = manifest["metadata"]["name"]
        with self._explained("create", f"trainjob {name}"):
            try:
                self.jobs.create_namespaced_custom_object(
                    **JOBS, namespace=self.namespace, body=manifest, **self.limits
                )
            except client.ApiException as error:
                reason = _reason(error)
                if error.status == 409 and reason == "AlreadyExists":
                    return False
                if error.status == 404 and "namespaces" not in _said(error):
                    raise ValueError(
                        f"{self.host} has no {API_VERSION}; install Kubeflow Trainer 2.3"
                    ) from None
                if "runtimeref" in _said(error).lower():
                    runtime = manifest["spec"]["runtimeRef"]["name"]
                    raise ValueError(
                        f"runtime={runtime!r} was refused: {_said(error)}; try: {RUNTIMES}"
                    ) from None
                raise
        return True

    def get(self, name: str) -> dict[str, Any] | None:
        """The job as it is now, None where there is none."""
        with self._explained("read", f"trainjob {name}"):
            try:
                return self.jobs.get_namespaced_custom_object(
                    **JOBS, namespace=self.namespace, name=name, **self.limits
                )
            except client.ApiException as error:
                if error.status != 404:
                    raise
                return None

    def delete(self, name: str) -> None:
        """Deletes a job with its pods; one that is gone is fine."""
        with self._explained("delete", f"trainjob {name}"):
            try:
                self.jobs.delete_namespaced_custom_object(
                    **JOBS, namespace=self.namespace, name=name, **self.limits
                )
            except client.ApiException as error:
                if error.status != 404:
                    raise

    def log(self, name: str, known: str, since: str) -> tuple[str, str] | None:
        """Pod and log of the newest first node, each line after its timestamp; None before it runs.

        Of the pod `known` only from the timestamp `since`, by whole seconds: some lines come again.
        """
        labels = (
            f"jobset.sigs.k8s.io/jobset-name={name},jobset.sigs.k8s.io/replicatedjob-name={NODE},"
            "batch.kubernetes.io/job-completion-index=0"
        )
        with self._explained("read", f"log of trainjob {name}"):
            pods = self.core.list_namespaced_pod(
                self.namespace, label_selector=labels, **self.limits
            ).items
            started = [pod for pod in pods if pod.status and pod.status.phase != "Pending"]
            if not started:
                return None
            pod = max(started, key=lambda pod: pod.metadata.creation_timestamp).metadata.name
            query: list[tuple[str, Any]] = [("container", NODE), ("timestamps", "true")]
            if pod == known and since:
                query.append(("sinceTime", since))
            # The client's own call knows sinceSeconds alone, which counts from the server's now.
            try:
                answer = self.core.api_client.call_api(
                    f"/api/v1/namespaces/{self.namespace}/pods/{pod}/log",
                    "GET",
                    query_params=query,
                    auth_settings=["BearerToken"],
                    _preload_content=False,
                    _return_http_data_only=True,
                    **self.limits,
                )
            except client.ApiException as error:
                if error.status in (400, 404):  # its container waits, or it has just gone
                    return None
                raise
            return pod, answer.data.decode(errors="replace")

    @contextlib.contextmanager
    def _explained(self, verb: str, what: str) -> Iterator[None]:
        """Turns the client's exceptions into Lost, or into one line that says what to try."""
        try:
            yield
        except urllib3.exceptions.HTTPError as error:
            raise Lost(
                f"cannot {verb} {what}: {self.host} does not answer ({error}); "
                "try: kubectl cluster-info"
            ) from None
        except client.ApiException as error:
            said = f"cannot {verb} {what} in namespace {self.namespace}: {_said(error)}"
            if error.status in (401, 403) and "denied the request" not in said:
                raise ValueError(f"{said}; manifests/base/service-accounts.yaml has it") from None
            if error.status == 429 or error.status >= 500:
                raise Lost(f"{said} ({error.status})") from None
            raise ValueError(f"{said} ({error.status})") from None


def _said(error: client.ApiException) -> str:
    try:
        return str(json.loads(error.body)["message"])
    except (TypeError, ValueError, KeyError):
        return str(error.body or error.reason)


def _reason(error: client.ApiException) -> str:
    try:
        return str(json.loads(error.body)["reason"])
    except (TypeError, ValueError, KeyError):
        return ""
