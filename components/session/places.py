"""Where the states of a run are: the name of its folder, and the removal of what is of no more use.

    <checkpoint_uri>/<stage>-<fingerprint>/step-00000100/      a state
                                          /attempts.json       what became of the attempts so far

The fingerprint is of the stage, its configuration and its inputs, so that one place serves all
stages and runs, and a run only ever goes on from its own.
"""

import contextlib
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from components import atomic, storage
from components.failure import as_line, explain, is_of_the_system
from components.storage import directories

STEP = re.compile(r"step-(\d{8})")
DRAFT = re.compile(rf"\.step-(\d{{8}}){atomic.DRAFT.replace('.', '[.]')}")
ATTEMPTS = "attempts.json"
# Fields that say where a run is computed and kept; a run may go on with other values of these.
PLACE = (
    "activation_checkpointing",
    "checkpoint_keep",
    "checkpoint_minutes",
    "checkpoint_steps",
    "checkpoint_uri",
    "micro_batch_size",
    "parallel",
)


def run_of(stage: str, config: Mapping[str, Any], inputs: Iterable[str]) -> str:
    """The name of a run: the stage and a fingerprint of everything that decides its result.

    `config` has the fields of its configuration, `inputs` the fingerprints of its inputs.
    """
    content = {
        "config": {name: value for name, value in config.items() if name not in PLACE},
        "inputs": sorted(inputs),
    }
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return f"{stage}-{digest[:16]}"


def steps(location: str) -> list[int]:
    """The steps of all complete states of a run, whether or not they are usable."""
    matches = map(STEP.fullmatch, directories.list_directories(location))
    return [int(match[1]) for match in matches if match]


def remove(record: Mapping[str, Any]) -> None:
    """Removes the states of a training run by the record of its output, if it has come to its end.

    Nobody may need them any more: on a cluster a stage that wrote its record can still fail, while
    its outputs are copied to the store. What belongs to a person stays. A place that cannot be
    reached is named, and is no error.
    """
    config, stage = record["config"], record["stage"]
    if config.get("checkpoint_uri") is None:
        return
    inputs = [reference["fingerprint"] for reference in record["inputs"].values()]
    location = storage.join(config["checkpoint_uri"], run_of(stage, config, inputs))
    try:
        if max(steps(location), default=0) == config["steps"]:
            _empty(location)
            print(f"{stage}: its checkpoints are removed, {location}", flush=True)
    except Exception as error:
        if not (isinstance(error, storage.StorageError) or is_of_the_system(error)):
            raise
        reason = as_line(explain(error))
        print(f"{stage}: its checkpoints stay in {location}: {reason}", flush=True)


def _empty(location: str) -> None:
    for name in sorted({name.partition("/")[0] for name in storage.list_files(location)}):
        if STEP.fullmatch(name) or DRAFT.fullmatch(name) or name == ATTEMPTS:
            storage.delete(storage.join(location, name))
    if not storage.is_remote(location):
        with contextlib.suppress(OSError):  # it holds a person's files
            Path(location).rmdir()
