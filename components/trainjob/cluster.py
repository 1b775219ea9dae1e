"""The part of the Kubernetes API that this stage uses: one job, and its first node's log.

`manifest.py` builds the job, `job.py` decides when to ask. Of the stages' code only this module,
`components.storage`, `components.rewards.judge` and `components.session.trainer` open connections.
"""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import urllib3
from kubernetes import client, config

from components.trainjob.manifest import API_VERSION, NODE

GROUP, VERSION = API_VERSION.split("/")
JOBS = {"group": GROUP, "version": VERSION, "plural": "trainjobs"}
TIMEOUT = (10, 60)  # seconds to connect, and between two pieces of an answer
# In a step's pod, KFP sets this variable to the pod's name and runs the step in this container.
POD, CONTAINER = "KFP_POD_NAME", "main"
NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
RUNTIMES = "kubectl get clustertrainingruntimes; kubectl get trainingruntimes"


class Unavailable(Exception):
    """The server does not answer, or is busy: asking again may help. The message says which."""


class Pod(NamedTuple):
    """A pod of a pipeline."""

    image: str
    owners: list[dict[str, str]]
    """References to the objects with which it goes: the run's workflow."""


class Cluster:
    """The API server of the pod's service account or of the kubeconfig.

    Each method raises Unavailable where asking again may help, and ValueError where it cannot.
    """

    def __init__(self, namespace: str | None) -> None:
        """`namespace` None stands for the pod's, or the kubeconfig's. Raises ValueError if there is
        no cluster."""
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
        settings.retries = False  # `job` asks again, and says so
        self.host, self.namespace = settings.host, namespace or own
        api = client.ApiClient(settings)
        self.jobs, self.core = client.CustomObjectsApi(api), client.CoreV1Api(api)
        self.limits: dict[str, Any] = {"_request_timeout": TIMEOUT}

    def has_claim(self, claim: str) -> bool:
        """Whether the namespace has the claim."""
        with self._explained("read", f"claim {claim}"):
            try:
                self.core.read_namespaced_persistent_volume_claim(
                    claim, self.namespace, **self.limits
                )
            except client.ApiException as error:
                if error.status != 404:
                    raise
                return False
        return True

    def check_claim(self, claim: str) -> None:
        """Raises ValueError if the namespace lacks the claim."""
        if not self.has_claim(claim):
            raise ValueError(
                f"claim={claim!r}: namespace {self.namespace} has no such volume claim; "
                f"try: kubectl -n {self.namespace} get persistentvolumeclaims"
            )

    def own_pod(self) -> Pod | None:
        """This pod, or None where this is not a pod of a pipeline."""
        name = os.environ.get(POD)
        if not name:
            return None
        with self._explained("read", f"pod {name}"):
            pod = self.core.read_namespaced_pod(name, self.namespace, **self.limits)
        containers = pod.spec.containers
        image = next(container.image for container in containers if container.name == CONTAINER)
        owners = [
            {"apiVersion": o.api_version, "kind": o.kind, "name": o.name, "uid": o.uid}
            for o in pod.metadata.owner_references or []
        ]
        return Pod(image, owners)

    def create(self, manifest: dict[str, Any]) -> bool:
        """Creates a job. False if there is one of its name. Raises ValueError if it is refused."""
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
                # A 404 that does not name the namespace means that the kind is not installed.
                if error.status == 404 and "namespaces" not in _message(error):
                    raise ValueError(
                        f"{self.host} has no {API_VERSION}; install Kubeflow Trainer 2.3"
                    ) from None
                if "runtimeref" in _message(error).lower():
                    runtime = manifest["spec"]["runtimeRef"]["name"]
                    raise ValueError(
                        f"runtime={runtime!r} was refused: {_message(error)}; try: {RUNTIMES}"
                    ) from None
                raise
        return True

    def get(self, name: str) -> dict[str, Any] | None:
        """The job as it is now, or None if there is none."""
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
        """Deletes a job with its pods. A job that is gone already is no error."""
        with self._explained("delete", f"trainjob {name}"):
            try:
                self.jobs.delete_namespaced_custom_object(
                    **JOBS, namespace=self.namespace, name=name, **self.limits
                )
            except client.ApiException as error:
                if error.status != 404:
                    raise

    def log(self, name: str, known: str, since: str) -> tuple[str, str] | None:
        """The name and the log of the newest pod of the first node; None before it runs.

        Every line starts with its timestamp. The log of the pod `known` starts at the timestamp
        `since`, which the server cuts to whole seconds, so that some lines come twice.
        """
        labels = (
            f"jobset.sigs.k8s.io/jobset-name={name},jobset.sigs.k8s.io/replicatedjob-name={NODE},"
            "batch.kubernetes.io/job-completion-index=0"
        )
        with self._explained("read", f"log of trainjob {name}"):
            pods = self.core.list_namespaced_pod(
                self.namespace, label_selector=labels, **self.limits
            ).items
            running = [pod for pod in pods if pod.status and pod.status.phase != "Pending"]
            if not running:
                return None
            pod = max(running, key=lambda pod: pod.metadata.creation_timestamp).metadata.name
            query: list[tuple[str, Any]] = [("container", NODE), ("timestamps", "true")]
            if pod == known and since:
                query.append(("sinceTime", since))
            # The client's own method has no sinceTime, only sinceSeconds. That counts back from the
            # time of the server's clock, which may differ from this pod's.
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
                if error.status in (400, 404):  # the container has not started, or the pod is gone
                    return None
                raise
            return pod, answer.data.decode(errors="replace")

    @contextlib.contextmanager
    def _explained(self, verb: str, thing: str) -> Iterator[None]:
        """Turns the client's exceptions into Unavailable or ValueError, of one line each."""
        try:
            yield
        except urllib3.exceptions.HTTPError as error:
            raise Unavailable(
                f"cannot {verb} {thing}: {self.host} does not answer ({error}); "
                "try: kubectl cluster-info"
            ) from None
        except client.ApiException as error:
            line = f"cannot {verb} {thing} in namespace {self.namespace}: {_message(error)}"
            # An admission webhook refuses with 403 as well, but no right would help there.
            if error.status in (401, 403) and "denied the request" not in line:
                raise ValueError(f"{line}; manifests/base/service-accounts.yaml has it") from None
            if error.status == 429 or error.status >= 500:
                raise Unavailable(f"{line} ({error.status})") from None
            raise ValueError(f"{line} ({error.status})") from None


def _message(error: client.ApiException) -> str:
    """The message for people in the server's Status object, or the whole body if it is none."""
    try:
        return str(json.loads(error.body)["message"])
    except (TypeError, ValueError, KeyError):
        return str(error.body or error.reason)


def _reason(error: client.ApiException) -> str:
    """The machine-readable reason in the server's Status object, such as AlreadyExists."""
    try:
        return str(json.loads(error.body)["reason"])
    except (TypeError, ValueError, KeyError):
        return ""
