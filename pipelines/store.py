"""Writes the settings of an object store as Kubernetes is told them: once for KFP, once for stages.

    python -m pipelines.store FILE --namespace llada | kubectl apply -f -

KFP's launcher reads where artifacts go from a ConfigMap, and the stages reach base models, data and
checkpoints with the variables of a secret. Both are made from the same file, so that they agree.

The launcher reads lasting keys from that secret. It knows no session token there, but runs in the
stages' containers, and takes whatever credentials their environment has: the keys and the token of
the same secret, or, where the file has no keys, the identity that the cloud gives the pods.
"""

import argparse
import re
import sys
import urllib.parse
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import yaml

from components.failure import as_line, explain
from model.options import check

SECRET, LAUNCHER = "object-store", "kfp-launcher"
NEEDED = ("root", "region")
PAIR = ("access-key", "secret-key")
KEYS = (*NEEDED, *PAIR, "session-token", "endpoint", "path-style")
OF_AWS = "https://s3.amazonaws.com"


def read(text: str) -> dict[str, str]:
    """The settings, a line `key=value` each; what is empty is left out.

    Raises ValueError naming the key that is unknown, missing or wrong, never a value of a secret.
    """
    settings: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        key, separator, value = (part.strip() for part in line.partition("="))
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        check(f"line {number}", key, bool(separator) and key in KEYS, f"KEY=VALUE of {KEYS}")
        settings |= {key: value} if value else {}
    for key in NEEDED:
        check(key, settings.get(key), key in settings, "a value, which the store cannot do without")
    has_pair = set(PAIR) <= set(settings)
    is_whole = has_pair or not {*PAIR, "session-token"} & set(settings)
    keys = [key for key in (*PAIR, "session-token") if key in settings]
    check(
        "keys", keys, is_whole, "both keys, both and a session-token, or none: the pods' identity"
    )
    root = settings["root"]
    check("root", root, re.fullmatch(r"s3://[^/]+(/.+)?", root) is not None, "s3://BUCKET/FOLDER")
    endpoint = urllib.parse.urlparse(settings.get("endpoint", OF_AWS))
    is_url = endpoint.scheme in ("http", "https") and bool(endpoint.netloc) and not endpoint.path
    check("endpoint", settings.get("endpoint"), is_url, "http[s]://HOST[:PORT], or nothing for AWS")
    style = settings.get("path-style", "true")
    check("path-style", style, style in ("true", "false"), "true or false")
    return settings


def documents(settings: Mapping[str, str], namespace: str) -> list[dict[str, Any]]:
    """The launcher's ConfigMap, and the secret of the launcher and the stages."""
    endpoint = urllib.parse.urlparse(settings.get("endpoint", OF_AWS))
    names = {"secretName": SECRET, "accessKeyKey": PAIR[0], "secretKeyKey": PAIR[1]}
    is_lasting = PAIR[0] in settings and "session-token" not in settings
    provider = {
        "endpoint": endpoint.netloc,
        "region": settings["region"],
        "disableSSL": endpoint.scheme == "http",
        "forcePathStyle": settings.get("path-style", "true") == "true",
        "credentials": {"fromEnv": False, "secretRef": names} if is_lasting else {"fromEnv": True},
    }
    providers = yaml.safe_dump({"s3": {"default": provider}}, sort_keys=False)
    kept = (*PAIR, "session-token", "endpoint", "region")
    return [
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": LAUNCHER, "namespace": namespace},
            "data": {"defaultPipelineRoot": settings["root"], "providers": providers},
        },
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": SECRET, "namespace": namespace},
            "stringData": {key: settings[key] for key in kept if key in settings},
        },
    ]


def main() -> None:
    """The command line: exit code 2 where the file cannot be used."""
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.store",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", type=Path, help="the filled copy of object-store.env.example")
    parser.add_argument("--namespace", required=True, help="where the runs' pods are")
    options = parser.parse_args()
    try:
        settings = read(options.file.read_text())
    except ValueError as error:
        _end(f"{options.file}: {error}")
    except OSError as error:
        _end(explain(error))
    print(yaml.safe_dump_all(documents(settings, options.namespace), sort_keys=False), end="")


def _end(message: str) -> NoReturn:
    print(f"store: error: {as_line(message)}", file=sys.stderr)
    raise SystemExit(2)


if __name__ == "__main__":
    main()
