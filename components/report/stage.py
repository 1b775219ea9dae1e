"""Gathers a run's figures from its artifact records and draws them: load, gather, save, record.

The lineage in the records names every stage that led to the three evaluations; nothing is measured
here. The page's drawing is in `page.py`, the terminal's table in `table.py`.
"""

import itertools
import json
from pathlib import Path
from typing import Any

from components import artifact
from components.artifact import Input, Output, OutputFile
from components.report import page as drawing
from components.report import table
from components.report.config import ReportConfig
from model.options import check

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
    """Writes report.json and report.html, one self-contained page, and both for the Kubeflow UI."""
    metrics_of = [pretrain_metrics, sft_metrics, preference_metrics]
    _check(metrics_of, [base_evaluation, sft_evaluation, aligned_evaluation])
    curves = {artifact.read(path)["stage"]: lines(path / artifact.METRICS) for path in metrics_of}
    method = artifact.read(preference_metrics)["stage"]
    evaluations = {"base": base_evaluation, "sft": sft_evaluation, method: aligned_evaluation}
    found = gather(config, evaluations)
    (report / "report.json").write_text(json.dumps(found, indent=1))
    traces = lines(aligned_evaluation / "traces.jsonl")[: config.traces]
    record = artifact.read(aligned_evaluation)
    drawn = drawing.render(found, curves, traces, record)
    (report / "report.html").write_text(drawn)
    page.write_text(drawn)
    summary.write_text(table.markdown(found))
    figures = {f"accuracy_{name}": r["accuracy"] for name, r in found["evaluations"].items()}
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


def _check(metrics: list[Path], evaluations: list[Path]) -> None:
    """Raises ValueError unless metrics and evaluations are those of one run, each in its place."""
    roles = ("pretrain_metrics", "sft_metrics", "preference_metrics")
    stages = [("pretrain",), ("sft",), ("dpo", "grpo")]
    for role, path, allowed in zip(roles, metrics, stages, strict=True):
        _expect(role, path, "metrics", allowed)
    trained = [_execution(artifact.read(path)["lineage"][-1]) for path in metrics]
    tests = set()
    for number, (name, path) in enumerate(
        zip(("base", "sft", "aligned"), evaluations, strict=True)
    ):
        _expect(f"{name}_evaluation", path, "evaluation", ("evaluate",))
        record = artifact.read(path)
        seen = {_execution(entry) for entry in record["lineage"]}
        is_after = set(trained[: number + 1]) <= seen and not seen & set(trained[number + 1 :])
        behind = " and ".join(roles[: number + 1])
        check(f"{name}_evaluation", str(path), is_after, f"one of the model behind {behind} alone")
        tests.add(record["inputs"]["dataset"]["fingerprint"])
    found = ", ".join(sorted(test[:12] for test in tests))
    check("evaluations", f"of datasets {found}", len(tests) == 1, "of one dataset")


def _expect(role: str, path: Path, output: str, stages: tuple[str, ...]) -> None:
    record = artifact.read(path)
    good = record["output"] == output and record["stage"] in stages
    found = f"{path} ({record['output']} of {record['stage']})"
    check(role, found, good, f"{output} of {' or '.join(stages)}")


def _execution(entry: dict[str, Any]) -> str:
    """What the outputs of one execution of a stage have in common, in a lineage."""
    return json.dumps([entry["stage"], entry["summary"]], sort_keys=True)


def gather(config: ReportConfig, evaluations: dict[str, Path]) -> dict[str, Any]:
    """The content of report.json."""
    results = {
        name: json.loads((path / "results.json").read_text()) for name, path in evaluations.items()
    }
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
        "total_seconds": sum(row["seconds"] for row in rows),
        "peak_memory_bytes": max(row["peak_memory_bytes"] for row in rows),
    }


def _rows(evaluations: dict[str, Path]) -> list[dict[str, Any]]:
    """One row per stage execution, in the order in which they ran."""
    rows: list[dict[str, Any]] = []
    seen = set()
    for name, path in evaluations.items():
        for entry in artifact.read(path)["lineage"]:
            execution = _execution(entry)
            if execution not in seen:
                seen.add(execution)
                repeated = entry["stage"] in ("merge", "evaluate")
                stage = f"{entry['stage']} ({name})" if repeated else entry["stage"]
                figures = {figure: entry["summary"].get(figure) for figure in FIGURES}
                rows.append({"stage": stage, **figures})
    return rows


def lines(path: Path) -> list[dict[str, Any]]:
    """The rows of a stage's own file; a line ends at \\n alone, whatever else a text holds."""
    with path.open(encoding="utf-8", newline="\n") as file:
        return [json.loads(line) for line in file]
