"""KFP's description of a task, and what a stage tells KFP about its outputs when it has ended.

Both are JSON: `--executor-input` on the command line, and the file that it names.
"""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from components import artifact
from model.options import check


def parse(text: str, outputs: Collection[str]) -> dict[str, Any]:
    """The part of a task's description that speaks of its outputs.

    Raises ValueError unless it names a file to report to, and each of `outputs` once: before work
    is spent on a stage that could not report it.
    """
    try:
        values = json.loads(text)
        target = values["outputs"]
        declared = [one for name in outputs for one in target["artifacts"][name]["artifacts"]]
        file = target["outputFile"]
        good = isinstance(file, str) and bool(file) and "\0" not in file
        good = good and len(declared) == len(outputs) and all(_is_artifact(one) for one in declared)
    except (KeyError, TypeError, ValueError, RecursionError):
        good = False
    names = ", ".join(outputs) or "no output"
    check("--executor-input", text, good, f"outputs.outputFile, and one artifact each of {names}")
    return dict(target)


def _is_artifact(value: Any) -> bool:
    """Whether a value is an object whose `type` and `metadata`, if any, are objects."""
    return isinstance(value, dict) and all(
        isinstance(value.get(name, {}), dict) for name in ("type", "metadata")
    )


def report(target: Mapping[str, Any], paths: Mapping[str, Path]) -> None:
    """Writes KFP's executor output: every output artifact, with figures of its record."""
    artifacts = {}
    for name, path in paths.items():
        (declared,) = target["artifacts"][name]["artifacts"]
        if path.is_dir():
            is_metrics = declared.get("type", {}).get("schemaTitle") == "system.Metrics"
            own = _metadata(artifact.read(path), is_metrics)
            declared["metadata"] = {**declared.get("metadata", {}), **own}
        artifacts[name] = {"artifacts": [declared]}
    file = Path(target["outputFile"])
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"artifacts": artifacts}))


def _metadata(record: dict[str, Any], is_metrics: bool) -> dict[str, Any]:
    """Figures alone for KFP's metrics, which it draws; other artifacts also get their origin."""
    figures = {key: v for key, v in record["summary"].items() if isinstance(v, int | float)}
    if is_metrics:
        return figures
    facts = {"stage": record["stage"], "fingerprint": record["fingerprint"]}
    return {**figures, **artifact.provenance(record), **facts}
