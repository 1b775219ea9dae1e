"""A client of the Kubeflow Pipelines API: credentials, the connection, and errors in one line.

The token comes from KFP_TOKEN or the pod's service account. `submit.py` says what is sent.
"""

import json
import logging
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kfp_server_api
import urllib3
from kfp import Client
from kfp.client import KF_PIPELINES_SA_TOKEN_ENV, KF_PIPELINES_SA_TOKEN_PATH
from kfp.client.set_volume_credentials import ServiceAccountTokenVolumeCredentials

from model.options import check

TOKEN = "KFP_TOKEN"
STANDALONE = "kubeflow"
"""The namespace of all runs where Kubeflow Pipelines is installed for itself."""
PORT_FORWARD = "kubectl -n kubeflow port-forward svc/ml-pipeline-ui 8080:80"
NEW_TOKEN = (
    f"export {TOKEN}=$(kubectl -n NAMESPACE create token llada-submitter "
    "--audience pipelines.kubeflow.org)"
)
LOGIN = f"no Kubeflow Pipelines API there, but a page, to log in perhaps; try: {NEW_TOKEN}"

FAILURES = (urllib3.exceptions.HTTPError, kfp_server_api.ApiException)


@dataclass(frozen=True, kw_only=True)
class Connection:
    """A client of one server, the namespace where it has several users, and the UI's address."""

    client: Client
    namespace: str | None
    ui: str
    host: str

    @property
    def home(self) -> str:
        """The namespace of the runs' pods."""
        return self.namespace or STANDALONE


def connect(host: str, namespace: str | None, ui: str | None) -> Connection:
    """Connects to the server. Raises ValueError saying what is wrong and what to try."""
    host = host.rstrip("/")
    is_address = host.startswith(("http://", "https://"))
    check("--host", host, is_address, "an address that begins with http:// or https://")
    secrets = _secrets()
    multi_user = _is_multi_user(host, secrets)
    if multi_user and namespace is None:
        raise ValueError("--namespace is missing: this server has several users, name your profile")
    # It would drop the name without a word, and run in its own namespace.
    alone = f"no --namespace: this server has one user, and all runs are in {STANDALONE}"
    check("--namespace", namespace, multi_user or namespace is None, alone)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        scope = {"namespace": namespace} if multi_user else {}
        client = Client(host=host, ui_host=ui or host, **secrets, **scope)
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # we report a failure ourselves, once
    return Connection(client=client, namespace=namespace, ui=ui or host, host=host)


def _secrets() -> dict[str, Any]:
    """The client's credentials: a token in the environment, or the one that the kubelet renews."""
    if token := os.environ.get(TOKEN):
        return {"existing_token": token}
    path = os.environ.get(KF_PIPELINES_SA_TOKEN_ENV, KF_PIPELINES_SA_TOKEN_PATH)
    if Path(path).is_file():
        return {"credentials": ServiceAccountTokenVolumeCredentials(path)}
    return {}


def _is_multi_user(host: str, secrets: dict[str, Any]) -> bool:
    configuration = kfp_server_api.Configuration(host=host)
    configuration.retries = False
    if "existing_token" in secrets:
        configuration.api_key["authorization"] = secrets["existing_token"]
    if "credentials" in secrets:
        configuration.refresh_api_key_hook = secrets["credentials"].refresh_api_key_hook
        configuration.api_key["authorization"] = "read from the file before every request"
    configuration.api_key_prefix["authorization"] = "Bearer"
    health = kfp_server_api.HealthzServiceApi(kfp_server_api.ApiClient(configuration))
    answer = health.healthz_service_get_healthz(_request_timeout=10, _preload_content=False)
    try:
        return bool(json.loads(answer.data).get("multi_user"))
    except (ValueError, AttributeError):
        raise ValueError(f"--host {host}: {LOGIN}") from None


def request(
    client: Client,
    path: str,
    *,
    message: bytes | None = None,
    headers: dict[str, str] | None = None,
    host: str | None = None,
) -> Any:
    """urllib3's reply to a request that the SDK has no call for, with its content still to be read.

    Raises an exception of FAILURES, also where the status says that it was refused.
    """
    answer = client._run_api.api_client.call_api(
        path,
        "GET" if message is None else "POST",
        header_params=headers,
        body=message,
        auth_settings=["Bearer"],
        _preload_content=False,
        _request_timeout=20,
        _host=host,
    )
    return answer[0] if isinstance(answer, tuple) else answer


def explain(error: Exception, host: str) -> str:
    """One line: what went wrong between this machine and the server, and what to try next."""
    if isinstance(error, urllib3.exceptions.HTTPError):
        cause = getattr(error, "reason", None) or error
        return f"--host {host}: no answer ({cause}); for a port on this machine: {PORT_FORWARD}"
    assert isinstance(error, kfp_server_api.ApiException)
    if error.status in (401, 403):
        state = "was refused" if _secrets() else "is missing"
        return f"--host {host}: the token {state} ({error.status}); try: {NEW_TOKEN}"
    if 300 <= error.status < 400:
        return f"--host {host}: {LOGIN}"
    if error.status == 404:
        return f"--host {host}: no Kubeflow Pipelines API v2 there (404); try the address of its UI"
    return f"--host {host}: {error.status} {error.reason}: {_detail(error)}"


def _detail(error: kfp_server_api.ApiException) -> str:
    try:
        return str(json.loads(error.body)["error_details"])
    except (TypeError, ValueError, KeyError):
        return str(error.body)
