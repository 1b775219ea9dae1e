"""The Kubeflow Pipelines API: who we are to it, who it is, and its errors in one line.

The token comes from KFP_TOKEN or the pod's service account. What is sent is the business of
`submit.py`.
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

TOKEN = "KFP_TOKEN"
PORT_FORWARD = "kubectl -n kubeflow port-forward svc/ml-pipeline-ui 8080:80"
NEW_TOKEN = (
    f"export {TOKEN}=$(kubectl -n NAMESPACE create token llada-submitter "
    "--audience pipelines.kubeflow.org)"
)
LOGIN = f"no Kubeflow Pipelines API there, but a page, to log in perhaps; try: {NEW_TOKEN}"

FAILURES = (urllib3.exceptions.HTTPError, kfp_server_api.ApiException)


@dataclass(frozen=True, kw_only=True)
class Server:
    """A Kubeflow Pipelines API, and the namespace that it wants named, if it has several users."""

    client: Client
    namespace: str | None
    ui: str


def connect(host: str, namespace: str | None, ui: str | None) -> Server:
    """Asks the server who it is. Raises ValueError saying what is wrong and what to try."""
    host = host.rstrip("/")
    if not host.startswith(("http://", "https://")):
        raise ValueError(f"--host {host}, allowed: an address that begins with http:// or https://")
    secrets = _secrets()
    multi_user = _is_multi_user(host, secrets)
    if multi_user and namespace is None:
        raise ValueError("--namespace is missing: this server has several users, name your profile")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        named = {"namespace": namespace} if multi_user else {}
        client = Client(host=host, ui_host=ui or host, **secrets, **named)
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # what fails is said once, by us
    return Server(client=client, namespace=namespace if multi_user else None, ui=ui or host)


def _secrets() -> dict[str, Any]:
    """How to say who we are: a token in the environment, or the one that the kubelet renews."""
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


def explain(error: Exception, host: str) -> str:
    """One line: what went wrong between here and the server, and the next thing to try."""
    if isinstance(error, urllib3.exceptions.HTTPError):
        cause = getattr(error, "reason", None) or error
        return f"--host {host}: no answer ({cause}); for a port on this machine: {PORT_FORWARD}"
    assert isinstance(error, kfp_server_api.ApiException)
    if error.status in (401, 403):
        given = "was refused" if _secrets() else "is missing"
        return f"--host {host}: the token {given} ({error.status}); try: {NEW_TOKEN}"
    if 300 <= error.status < 400:
        return f"--host {host}: {LOGIN}"
    if error.status == 404:
        return f"--host {host}: no Kubeflow Pipelines API v2 there (404); try the address of its UI"
    return f"--host {host}: {error.status} {error.reason}: {_said(error)}"


def _said(error: kfp_server_api.ApiException) -> str:
    try:
        return str(json.loads(error.body)["error_details"])
    except (TypeError, ValueError, KeyError):
        return str(error.body)
