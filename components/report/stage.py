"""Gathers a run's figures from its artifact records and draws them: load, gather, save, record.

The lineage in the records names every stage that led to the three evaluations; nothing is measured
here. `page.py` draws the page, `table.py` formats the table for terminals and for Markdown.
"""

import itertools
import json
from pathlib import Path
from typing import Any

from components import artifact
from components.artifact import Input, Output, OutputFile
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


def run(
    config: ReportConfig,
    *,
    pretrain_metrics: Input,
    sft_metrics: Input,
    preference_metrics: Input,
    base_evaluation: Input,
    sft_evaluation: Input,
    aligned_evaluation: Input,
    report: Output,
    metrics: Output,
    page: OutputFile,
    summary: OutputFile,
) -> None:
    """Writes report.json and report.html, a self-contained page, and both for the Kubeflow UI."""
    training = [pretrain_metrics, sft_metrics, preference_metrics]
    _check(training, [base_evaluation, sft_evaluation, aligned_evaluation])
    curves = {artifact.read(path)["stage"]: lines(path / artifact.METRICS) for path in training}
    method = artifact.read(preference_metrics)["stage"]
    evaluations = {"base": base_evaluation, "sft": sft_evaluation, method: aligned_evaluation}
    content = gather(config, evaluations)
    (report / "report.json").write_text(json.dumps(content, indent=1))
    traces = lines(aligned_evaluation / "traces.jsonl")[: config.traces]
    html = render_page(content, curves, traces, artifact.read(aligned_evaluation))
    (report / "report.html").write_text(html)
    page.write_text(html)
    summary.write_text(table.markdown(content))
    figures = {f"accuracy_{name}": r["accuracy"] for name, r in content["evaluations"].items()}
    (metrics / artifact.METRICS).write_text(json.dumps(figures) + "\n")
    inputs = {
        "pretrain_metrics": pretrain_metrics,
        "sft_metrics": sft_metrics,
        "preference_metrics": preference_metrics,
        "base_evaluation": base_evaluation,
        "sft_evaluation": sft_evaluation,
        "aligned_evaluation": aligned_evaluation,
    }
    artifact.record(
        {"report": report, "metrics": metrics},
        stage="report",
        config=config,
        inputs=inputs,
        summary=figures,
    )
    # Their stages have come to their ends: what they made was this stage's input.
    for path in filter(None, (pretrain_metrics, sft_metrics, preference_metrics)):
        places.remove(artifact.read(path))


def _check(metrics: list[Path], evaluations: list[Path]) -> None:
    """Raises ValueError unless metrics and evaluations are of one run, each in its role.

    The evaluation number n must be of a model behind the first n training stages and no other, and
    all three must be of the same problems, or their accuracies could not be compared.
    """
    roles = ("pretrain_metrics", "sft_metrics", "preference_metrics")
    stages = [("pretrain",), ("sft",), ("dpo", "grpo")]
    for role, path, allowed in zip(roles, metrics, stages, strict=True):
        _expect(role, path, "metrics", allowed)
    training = [_execution_key(artifact.read(path)["lineage"][-1]) for path in metrics]
    datasets = set()
    for number, (name, path) in enumerate(
        zip(("base", "sft", "aligned"), evaluations, strict=True)
    ):
        _expect(f"{name}_evaluation", path, "evaluation", ("evaluate",))
        record = artifact.read(path)
        history = {_execution_key(entry) for entry in record["lineage"]}
        before, later = set(training[: number + 1]), set(training[number + 1 :])
        is_after = before <= history and not history & later
        behind = " and ".join(roles[: number + 1])
        check(f"{name}_evaluation", str(path), is_after, f"one of the model behind {behind} alone")
        datasets.add(record["inputs"]["dataset"]["fingerprint"])
    names = ", ".join(sorted(fingerprint[:12] for fingerprint in datasets))
    check("evaluations", f"of datasets {names}", len(datasets) == 1, "of one dataset")


def _expect(role: str, path: Path, output: str, stages: tuple[str, ...]) -> None:
    """Raises ValueError unless the artifact is this output of one of the stages."""
    record = artifact.read(path)
    good = record["output"] == output and record["stage"] in stages
    origin = f"{path} ({record['output']} of {record['stage']})"
    check(role, origin, good, f"{output} of {' or '.join(stages)}")


def _execution_key(entry: dict[str, Any]) -> str:
    """Identifies the execution of a stage that an entry of a lineage comes from.

    The outputs of one execution share its summary, which holds measured times.
    """
    return json.dumps([entry["stage"], entry["summary"]], sort_keys=True)


def gather(config: ReportConfig, evaluations: dict[str, Path]) -> dict[str, Any]:
    """The content of report.json."""
    results = {name: _results(path) for name, path in evaluations.items()}
    tasks = _shared_tasks(results)
    rows = _rows(evaluations)
    method = list(evaluations)[-1]
    accuracy = {"pretrain": results["base"], "sft": results["sft"], method: results[method]}
    stages = {}
    for row in rows:
        if row["stage"] in ("download", *accuracy):
            stages[row["stage"]] = {name: row[name] for name in FIGURES}
    for stage, result in accuracy.items():
        stages[stage]["accuracy"] = result["accuracy"]
    scores = [result["accuracy"] for result in results.values()]
    rises = all(before < after for before, after in itertools.pairwise(scores))
    return {
        "title": config.title,
        "preference": method,
        "verdict": "accuracy rises at every step"
        if rises
        else "accuracy does NOT rise at every step",
        "stages": stages,
        "table": rows,
        "evaluations": results,
        "tasks": tasks,
        "total_seconds": sum(row["seconds"] for row in rows),
        "peak_memory_bytes": max(row["peak_memory_bytes"] for row in rows),
    }


def _results(evaluation: Path) -> dict[str, Any]:
    content = json.loads((evaluation / "results.json").read_text())
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
            rows.setdefault(_execution_key(entry), {"stage": stage, **figures})
    return list(rows.values())


def _display_name(stage: str, evaluation: str) -> str:
    """As the graph shows it: a run has several executions of these two stages."""
    if stage == "merge":
        return f"merge {'pretrain' if evaluation == 'base' else evaluation}"
    return f"evaluate {evaluation}" if stage == "evaluate" else stage


def lines(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSON lines file that a stage wrote.

    Lines end at \\n only: the texts in them may hold other separators, such as U+2028.
    """
    with path.open(encoding="utf-8", newline="\n") as file:
        return [json.loads(line) for line in file]
