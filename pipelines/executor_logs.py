"""The log of a stage as KFP's launcher keeps it when the stage ends: the artifact `executor-logs`.

It outlives pods and workflows. Attempt N + 1 of a stage has its log at

    PIPELINE_ROOT/llada-reasoning/RUN/STAGE/UUID/executor-logs-N

The metadata store knows the address. The UI reads the content with the server's credentials; in S3
it is also read with those of this machine, which those who keep their own artifacts there have.
Where the store does not answer, as without the UI, the run's own pipeline root is listed.
"""

import functools
import re
import urllib.parse
from typing import Any

from kfp import Client

from components import PROJECT
from components.storage.listing import latest_below
from components.storage.objects import read_end
from pipelines import logs, metadata
from pipelines.progress import Row

NAME = re.compile(r"executor-logs(?:-(\d+))?")
KINDS = ("", "text/plain", "application/octet-stream")  # else it is the UI's page, or an archive
Facts = dict[str, Any]


def sources(client: Client, run: Any, row: Row, namespace: str) -> list[logs.Source]:
    """Where the stage's newest log may be read, the likeliest first."""
    return [
        functools.partial(_by_the_server, client, run, row, namespace),
        functools.partial(_by_ourselves, client, run, row),
    ]


def _by_the_server(client: Client, run: Any, row: Row, namespace: str) -> list[str]:
    log = _newest(client, run, row)
    scheme, _, place = log["uri"].partition("://")
    bucket, _, key = place.partition("/")
    names = {"source": scheme, "bucket": bucket, "key": key, "namespace": namespace}
    if session := log.get("store_session_info"):
        names["providerInfo"] = session
    path = f"/artifacts/get?{urllib.parse.urlencode(names)}"
    return _told(row, log["uri"], logs.answer(client, path, KINDS))


def _by_ourselves(client: Client, run: Any, row: Row) -> list[str]:
    try:
        address = str(_newest(client, run, row)["uri"])
    except Exception:  # as in `logs.first`: it may be anything but the address
        root = run.runtime_config.pipeline_root.partition("?")[0].rstrip("/")
        folder = f"{root}/{PROJECT}/{run.run_id}/{row.stage.key}"
        address = f"{folder}/{latest_below(folder, NAME)}" if root.startswith("s3://") else ""
    if not address.startswith("s3://"):
        return []
    return _told(row, address, logs.last_lines(read_end(address, logs.BYTES)))


def _newest(client: Client, run: Any, row: Row) -> Facts:
    """What the metadata store has of the log that was kept last for the stage."""
    kept = [
        artifact
        for artifact in metadata.artifacts(client, run.run_id)
        if NAME.fullmatch(artifact.get("output", ""))
        and artifact["uri"].split("/")[-3:-2] == [row.stage.key]
    ]
    return kept[-1]


def _told(row: Row, address: str, lines: list[str]) -> list[str]:
    """The lines, and before them whose they are if the last attempt left none."""
    match = NAME.fullmatch(address.rpartition("/")[2])
    attempt = int(match[1]) + 1 if match and match[1] else row.attempt
    if not lines or row.attempt in (None, attempt):
        return lines
    return [f"of attempt {attempt}, for attempt {row.attempt} left no log:", *lines]
