"""Copies a model that is accurate enough, with a card: check, copy, describe, record.

The pipeline checks the accuracy before it starts this stage. The check is repeated here for
releases by hand. Nothing is published to a hub.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import yaml

from components import adapted, artifact, references, written
from components.artifact import Input, Output
from components.drawing import escape_markdown
from components.release.config import ReleaseConfig
from model.options import check

CARD = "README.md"


def run(
    config: ReleaseConfig, *, model: Input, evaluation: Input, release: Output, metrics: Output
) -> None:
    """Writes `model` with a card into `release`.

    The evaluation may be of the base and the adapters that `model` was merged from. Raises
    ValueError for a model below `accuracy`, or an evaluation of another model.
    """
    results = written.results(evaluation)
    task, score = _score(config, results)
    _check_model(config, model, evaluation, score["score"])
    with references.opened(model) as folder:
        for file in artifact.read(model)["files"]:
            (release / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / file, release / file)
    (release / CARD).write_text(card(config, artifact.read(evaluation), task, score))
    figures = {"accuracy": score["score"], "least_accuracy": config.accuracy, "task": task}
    (metrics / artifact.METRICS).write_text(json.dumps(figures) + "\n")
    artifact.record(
        {"release": release, "metrics": metrics},
        stage="release",
        config=config,
        inputs={"model": model, "evaluation": evaluation},
        summary=figures,
    )


def _score(config: ReleaseConfig, results: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The task that decides, and its score. Raises ValueError if the evaluation did not ask it."""
    task, tasks = config.task or results["task"], results["tasks"]
    check("task", task, task in tasks, f"a task of the evaluation: {', '.join(tasks)}")
    return task, tasks[task]


def _check_model(config: ReleaseConfig, model: Path, evaluation: Path, accuracy: float) -> None:
    evaluated = adapted.chain(artifact.read(evaluation))
    names = adapted.names(artifact.read(model))
    allowed = " or ".join(map(adapted.shown, names))
    origin = f"of model {adapted.shown(evaluated)}"
    check("evaluation", origin, evaluated in names, f"one of {allowed}")
    is_after = artifact.origin(artifact.read(evaluation)) is not None
    check("evaluation", str(evaluation), is_after, "of a model that began with a download")
    check("accuracy", accuracy, accuracy >= config.accuracy, f"{config.accuracy} or more")


def card(config: ReleaseConfig, record: dict[str, Any], task: str, score: dict[str, Any]) -> str:
    """The model card in Markdown: front matter for hubs, the accuracy, and the model's history.

    `record` is the evaluation's artifact record, `score` what its results.json says of the task.
    """
    facts = artifact.provenance(record)
    origin = artifact.origin(record)
    address = origin["summary"].get("hub_model") if origin else None
    # Hubs accept only names of their own models, and a local path would tell of the machine.
    base_model = {"base_model": address.partition("@")[0]} if address else {}
    head = {**base_model, "tags": ["masked-diffusion", "reasoning"]}
    base = "a new model" if facts["base_model"] == "new" else address or "not from a hub"
    stages = list(dict.fromkeys(entry["stage"] for entry in record["lineage"]))
    error = score["standard_error"]
    uncertainty = "" if error is None else f" (standard error {error:.3f})"
    subject = "unseen problems" if task == "test" else f"problems of {escape_markdown(task)}"
    lines = [
        f"---\n{yaml.safe_dump(head)}---",
        f"# {escape_markdown(config.name)}",
        f"Exact match on {score['problems']} {subject}: {score['score']:.3f}{uncertainty}."
        if "exact_match" in score["metric"]
        else f"{escape_markdown(score['metric'])} on {score['problems']} {subject}: "
        f"{score['score']:.3f}{uncertainty}.",
        f"- Base model: {base}, {facts['parameters']:,} parameters\n"
        f"- Tokens in training: {facts['tokens']:,}\n"
        f"- Stages: {', '.join(stages)}\n"
        f"- Commit: {facts['commit']}",
        "The configurations and checksums of all stages are in `.artifact.json`.",
    ]
    return "\n\n".join(lines) + "\n"
