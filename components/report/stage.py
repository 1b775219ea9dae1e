"""Gathers a run's figures from its artifact records and draws them: load, gather, save, record.

The lineage in the records names every stage that led to the evaluations; nothing is measured here.
A training stage that was off has neither metrics nor an evaluation. `page.py` draws the page,
`table.py` formats the table for terminals and for Markdown.
"""

import itertools
import json
from pathlib import Path
from typing import Any

from components import artifact, written
from components.artifact import Input, OptionalInput, Output, OutputFile
from components.records import execution_key
from components.report import table
from components.report.config import ReportConfig
from components.report.page import render_page
from components.session import places
from model.options import check

RESULTS = (
    *("accuracy", "correct", "problems", "standard_error", "tokens_per_second"),
    *("forward_passes_per_answer", "too_long", "unusable", "task", "tasks"),
)
"""What the report takes from the results of an evaluation."""
FIGURES = ("steps", "loss", "accuracy", "tokens_per_second", "seconds", "peak_memory_bytes")
ROLES = {
    "base_evaluation": ("pretrain_metrics", ("pretrain",)),
    "sft_evaluation": ("sft_metrics", ("sft",)),
    "aligned_evaluation": ("preference_metrics", ("dpo", "grpo")),
}
"""By the role of an evaluation: the metrics of the training before it, and which stages have it."""
TRAINING = [stage for _, stages in ROLES.values() for stage in stages]


def run(
    config: ReportConfig,
    *,
    pretrain_metrics: OptionalInput = None,
    sft_metrics: OptionalInput = None,
    preference_metrics: OptionalInput = None,
    base_evaluation: Input,
    sft_evaluation: OptionalInput = None,
    aligned_evaluation: OptionalInput = None,
    report: Output,
    metrics: Output,
    page: OutputFile,
    summary: OutputFile,
) -> None:
    """Writes report.json and report.html, a self-contained page, and both for the Kubeflow UI."""
    training = _present(
        pretrain_metrics=pretrain_metrics,
        sft_metrics=sft_metrics,
        preference_metrics=preference_metrics,
    )
    evaluations = _present(
        base_evaluation=base_evaluation,
        sft_evaluation=sft_evaluation,
        aligned_evaluation=aligned_evaluation,
    )
    _check(training, evaluations)
    curves = {artifact.read(path)["stage"]: written.curve(path) for path in training.values()}
    content = gather(config, _by_stage(training, evaluations))
    (report / "report.json").write_text(json.dumps(content, indent=1))
    last = list(evaluations.values())[-1]
    traces = written.traces(last)[: config.traces]
    html = render_page(content, curves, traces, artifact.read(last))
    (report / "report.html").write_text(html)
    page.write_text(html)
    summary.write_text(table.markdown(content))
    figures = {f"accuracy_{name}": r["accuracy"] for name, r in content["evaluations"].items()}
    (metrics / artifact.METRICS).write_text(json.dumps(figures) + "\n")
    artifact.record(
        {"report": report, "metrics": metrics},
        stage="report",
        config=config,
        inputs={**training, **evaluations},
        summary=figures,
    )
    # Their stages have come to their ends: what they made was this stage's input.
    for path in filter(None, (pretrain_metrics, sft_metrics, preference_metrics)):
        places.remove(artifact.read(path))


def _present(**inputs: Path | None) -> dict[str, Path]:
    """The inputs that this run has, by their role."""
    return {role: path for role, path in inputs.items() if path is not None}


def _by_stage(training: dict[str, Path], evaluations: dict[str, Path]) -> dict[str, Path]:
    """The evaluations by `base`, `sft` and the name of the preference stage."""
    names = {"base_evaluation": "base", "sft_evaluation": "sft"}
    if (preference := training.get("preference_metrics")) is not None:
        names["aligned_evaluation"] = artifact.read(preference)["stage"]
    return {names[role]: path for role, path in evaluations.items()}


def _check(metrics: dict[str, Path], evaluations: dict[str, Path]) -> None:
    """Raises ValueError unless metrics and evaluations are of one run, each in its role.

    Each evaluation must be of a model behind the training stages up to its role and no later ones,
    and all must be of the same problems, or their accuracies could not be compared.
    """
    for evaluation, (role, allowed) in ROLES.items():
        if role in metrics:
            _expect(role, metrics[role], "metrics", allowed)
        if evaluation != "base_evaluation" and (role in metrics) != (evaluation in evaluations):
            missing = evaluation if role in metrics else role
            raise ValueError(
                f"{missing} is missing, allowed: both {role} and {evaluation}, or none"
            )
    training = {
        role: execution_key(artifact.read(path)["lineage"][-1]) for role, path in metrics.items()
    }
    behind: list[str] = []  # the metrics of the training stages behind an evaluation
    datasets = set()
    for name, (role, _) in ROLES.items():
        behind += [role] if role in metrics else []
        if name not in evaluations:
            continue
        path = evaluations[name]
        _expect(name, path, "evaluation", ("evaluate",))
        record = artifact.read(path)
        history = {
            execution_key(entry) for entry in record["lineage"] if entry["stage"] in TRAINING
        }
        is_after = history == {training[role] for role in behind}
        stages = f"behind {' and '.join(behind)} alone" if behind else "that no stage has trained"
        check(name, str(path), is_after, f"one of the model {stages}")
        dataset = record["inputs"].get("dataset")
        check(name, str(path), dataset is not None, "an evaluation that records its dataset")
        datasets.add(dataset["fingerprint"])
    names = ", ".join(sorted(fingerprint[:12] for fingerprint in datasets))
    check("evaluations", f"of datasets {names}", len(datasets) == 1, "of one dataset")


def _expect(role: str, path: Path, output: str, stages: tuple[str, ...]) -> None:
    """Raises ValueError unless the artifact is this output of one of the stages."""
    record = artifact.read(path)
    good = record["output"] == output and record["stage"] in stages
    origin = f"{path} ({record['output']} of {record['stage']})"
    check(role, origin, good, f"{output} of {' or '.join(stages)}")


def gather(config: ReportConfig, evaluations: dict[str, Path]) -> dict[str, Any]:
    """The content of report.json."""
    results = {name: _results(path) for name, path in evaluations.items()}
    tasks = _shared_tasks(results)
    rows = _rows(evaluations)
    # The base that is evaluated is the downloaded model, or that which pretraining made of it.
    trained = {row["stage"] for row in rows}
    first = "pretrain" if "pretrain" in trained else "download"
    accuracy = {first if name == "base" else name: result for name, result in results.items()}
    stages = {}
    for row in rows:
        if row["stage"] in ("download", *accuracy):
            stages[row["stage"]] = {name: row[name] for name in FIGURES}
    for stage, result in accuracy.items():
        stages[stage]["accuracy"] = result["accuracy"]
    scores = [result["accuracy"] for result in results.values()]
    return {
        "title": config.title,
        "preference": list(evaluations)[-1],
        "verdict": _verdict(scores),
        "stages": stages,
        "table": rows,
        "evaluations": results,
        "tasks": tasks,
        "total_seconds": sum(row["seconds"] for row in rows),
        "peak_memory_bytes": max(row["peak_memory_bytes"] for row in rows),
    }


def _verdict(scores: list[float]) -> str:
    if len(scores) == 1:
        return "one evaluation, with nothing to compare it to"
    if all(before < after for before, after in itertools.pairwise(scores)):
        return "accuracy rises at every step"
    return "accuracy does NOT rise at every step"


def _results(evaluation: Path) -> dict[str, Any]:
    content = written.results(evaluation)
    return {name: content[name] for name in RESULTS}


def _shared_tasks(results: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The score of each evaluation on each task that all of them asked, by task.

    Raises ValueError unless their first task, by which the pipeline decides, is the same.
    """
    firsts = {result["task"] for result in results.values()}
    check("evaluations", f"of {', '.join(sorted(firsts))} first", len(firsts) == 1, "of one task")
    names = [
        task
        for task in next(iter(results.values()))["tasks"]
        if all(task in result["tasks"] for result in results.values())
    ]
    return {
        task: {name: result["tasks"][task] for name, result in results.items()} for task in names
    }


def _rows(evaluations: dict[str, Path]) -> list[dict[str, Any]]:
    """One row per stage execution, in the order in which they ran."""
    rows: dict[str, dict[str, Any]] = {}
    for name, path in evaluations.items():
        for entry in artifact.read(path)["lineage"]:
            stage = _display_name(entry["stage"], name)
            figures = {figure: entry["summary"].get(figure) for figure in FIGURES}
            # Every lineage starts with the stages that it shares with the one before.
            rows.setdefault(execution_key(entry), {"stage": stage, **figures})
    return list(rows.values())


def _display_name(stage: str, evaluation: str) -> str:
    """As the graph shows it: a run has several executions of these two stages."""
    if stage == "merge":
        return f"merge {'pretrain' if evaluation == 'base' else evaluation}"
    return f"evaluate {evaluation}" if stage == "evaluate" else stage
