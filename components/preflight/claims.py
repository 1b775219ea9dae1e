"""Whether the namespace has the volume claims that the pods of a run mount.

A pod that mounts a claim which is not there waits without an end, and says so nowhere but in its
events; preflight's own pod mounts none.
"""

import importlib
import os
from collections.abc import Iterator
from typing import Any

from components.download.config import DownloadConfig
from components.failure import as_line, explain

CLUSTER = "components.trainjob.cluster"  # imported where there are claims alone: it takes a second


def missing(download: DownloadConfig) -> Iterator[str]:
    """Complains of claims in CLAIMS, which the pipeline sets for its pod, that are not there.

    A service account that may not read claims, or a server that does not answer, stops no run.
    """
    claims = os.environ.get("CLAIMS", "").split()
    if not claims:
        return
    module: Any = importlib.import_module(CLUSTER)
    try:
        cluster = module.Cluster(None)
        absent = [claim for claim in claims if not cluster.has_claim(claim)]
    except (ValueError, module.Unavailable) as error:
        reason = as_line(explain(error))
        print(f"preflight: note: volume claims were not looked up: {reason}", flush=True)
        return
    for claim in absent:
        yield (
            f"claim {claim}: namespace {cluster.namespace} has no such volume claim, allowed: one "
            "as in manifests/gpu/volumes.yaml, or a pipeline that mounts none (compiled with "
            f"another --placement, or other than download.mirror={download.mirror!r})"
        )
