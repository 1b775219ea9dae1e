"""Measures a model's scores on tasks with lm_eval: load, ask, judge, trace, save, record."""

import contextlib
import json
from pathlib import Path
from typing import Any

import torch

from components import adapted, artifact
from components.artifact import Input, Inputs, Output, OutputFile, Parameter
from components.data import problems
from components.evaluate import display, results, tasks
from components.evaluate.config import EvaluateConfig
from components.evaluate.harness import DiffusionLM
from components.evaluate.store import open_store
from components.evaluate.task import VERDICT, UnseenProblems
from components.evaluate.team import Team, join
from components.evaluate.tracing import trace

Rows = dict[int, dict[str, Any]]
"""Problems by their number in the file."""


def run(
    config: EvaluateConfig,
    *,
    model: Input,
    adapters: Inputs = (),
    dataset: Input,
    evaluation: Output,
    metrics: Output,
    page: OutputFile,
    summary: OutputFile,
    accuracy: Parameter,
) -> None:
    """Puts tasks to `model`, and writes results, samples and traces."""
    team = join()
    if team.rank:
        _load(config, model, adapters, evaluation, team).serve()
        return
    rows, unusable = _test_rows(config, dataset)
    suite = tasks.suite(config, list(rows.values()))
    lm = _load(config, model, adapters, evaluation, team)
    fitting, too_long = _fitting(lm, suite, rows, dataset)
    with contextlib.closing(lm):
        answers = results.ask(lm, suite, config)
    samples = results.samples(answers, suite, config)
    counts = {"too_long": too_long, "unusable": unusable}
    content = results.content(answers, suite, config, lm, counts)
    traces = [
        {"task": name, **trace(lm, problem)}
        for name, good in fitting.items()
        for problem in good[: config.traces]
    ]
    figures = results.figures(content)
    (evaluation / "results.json").write_text(json.dumps(content, indent=1))
    _write_lines(evaluation / "samples.jsonl", samples)
    _write_lines(evaluation / "traces.jsonl", traces)
    _write_lines(metrics / artifact.METRICS, [figures])
    page.write_text(display.page(content, traces))
    summary.write_text(display.summary(content, figures, samples))
    accuracy.write_text(json.dumps(content["accuracy"]))
    print("\n".join(f"evaluate: {line}" for line in display.lines(content)), flush=True)
    if config.checkpoint_uri is None and lm.store:
        lm.store.clear()
    artifact.record(
        {"evaluation": evaluation, "metrics": metrics},
        stage="evaluate",
        config=config,
        inputs={"model": model, "dataset": dataset, **adapted.named(adapters)},
        summary=figures,
    )


def _load(
    config: EvaluateConfig, model: Path, adapters: Inputs, evaluation: Path, team: Team
) -> DiffusionLM:
    dtype = torch.float32 if team.device == "cpu" else torch.bfloat16
    loaded = adapted.load(model, adapters, dtype=dtype, device=team.device)
    fingerprints = [artifact.read(path)["fingerprint"] for path in (model, *adapters)]
    store = open_store(config, evaluation, [*fingerprints, str(dtype)])
    return DiffusionLM(*loaded, config, store=store, team=team)


def _test_rows(config: EvaluateConfig, dataset: Path) -> tuple[Rows, int]:
    """The dataset's test problems where they are asked, and how many cannot be judged."""
    if tasks.TEST not in config.tasks:
        return {}, 0
    return problems.usable(dataset, "test", VERDICT, limit=config.limit)


def _fitting(
    lm: DiffusionLM, suite: tasks.Suite, rows: Rows, dataset: Path
) -> tuple[dict[str, list[dict[str, Any]]], int]:
    """The problems of our own tasks whose answers have room, by task, and how many have not.

    Raises ValueError if no problem of a task has room.
    """
    fitting, count = {}, 0
    for name, task in suite.tasks.items():
        if isinstance(task, UnseenProblems):
            is_test = name == tasks.TEST
            own = rows if is_test else dict(enumerate(task.problems))
            faults = _too_long(lm, own)
            place = dataset / "test.jsonl" if is_test else Path(name)
            problems.tell(place, faults, "counted as wrong")
            fitting[name] = [problem for number, problem in own.items() if number not in faults]
            count += len(faults)
    return fitting, count


def _too_long(lm: DiffusionLM, rows: Rows) -> dict[int, str]:
    """The reasons of the problems that leave no room for an answer, by row number.

    Raises ValueError if no problem leaves room for one.
    """
    reasons = {number: lm.too_long(lm.encode(problem)) for number, problem in rows.items()}
    faults = {number: reason for number, reason in reasons.items() if reason}
    if len(faults) == len(rows):
        raise ValueError(f"no problem leaves room for its answer: {next(iter(faults.values()))}")
    return faults


def _write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
