"""Measures exact match on unseen problems with lm_eval: load, ask, judge, trace, save, record."""

import contextlib
import json
from pathlib import Path
from typing import Any

import torch

from components import artifact
from components.artifact import Input, Output, OutputFile, Parameter
from components.data import problems
from components.evaluate import display, forms
from components.evaluate.config import EvaluateConfig
from components.evaluate.harness import DiffusionLM
from components.evaluate.store import open_store
from components.evaluate.task import VERDICT, ask, sample
from components.evaluate.team import Team, join
from model import checkpoint, sampler
from model.tokenizer import load_tokenizer


def run(
    config: EvaluateConfig,
    *,
    model: Input,
    dataset: Input,
    evaluation: Output,
    metrics: Output,
    page: OutputFile,
    summary: OutputFile,
    accuracy: Parameter,
) -> None:
    """Asks `model` the dataset's test problems and writes results, samples and traces."""
    team = join()
    if team.rank:
        _load(config, model, evaluation, team).serve()
        return
    rows, unusable = problems.usable(dataset, "test", VERDICT, limit=config.limit)
    lm = _load(config, model, evaluation, team)
    faults = _too_long(lm, rows)
    problems.tell(dataset / "test.jsonl", faults, "counted as wrong")
    with contextlib.closing(lm):
        samples = ask(lm, list(rows.values()), config.form, workers=config.reward_workers)
    counts = {"too_long": len(faults), "unusable": unusable}
    results = _results(samples, lm) | counts
    (evaluation / "results.json").write_text(json.dumps(results, indent=1))
    _write_lines(evaluation / "samples.jsonl", samples)
    fitting = [problem for number, problem in rows.items() if number not in faults]
    traces = [_trace(lm, problem) for problem in fitting[: config.traces]]
    _write_lines(evaluation / "traces.jsonl", traces)
    _write_lines(metrics / artifact.METRICS, [results])
    page.write_text(display.page(results, traces))
    summary.write_text(display.summary(results, samples))
    accuracy.write_text(json.dumps(results["accuracy"]))
    print(f"evaluate: {results['correct']} of {results['problems']} exact", flush=True)
    if config.checkpoint_uri is None and lm.store:
        lm.store.clear()
    artifact.record(
        {"evaluation": evaluation, "metrics": metrics},
        stage="evaluate",
        config=config,
        inputs={"model": model, "dataset": dataset},
        summary=results,
    )


def _load(config: EvaluateConfig, model: Path, evaluation: Path, team: Team) -> DiffusionLM:
    dtype = torch.float32 if team.device == "cpu" else torch.bfloat16
    network = checkpoint.load(model, dtype=dtype, device=team.device)
    store = open_store(config, evaluation, [artifact.read(model)["fingerprint"], str(dtype)])
    return DiffusionLM(network, load_tokenizer(model), config, store=store, team=team)


def _too_long(lm: DiffusionLM, rows: dict[int, dict[str, Any]]) -> dict[int, str]:
    """The reasons of the problems that leave no room for an answer, by row number.

    Raises ValueError if no problem leaves room for one.
    """
    reasons = {number: lm.too_long(lm.encode(problem)) for number, problem in rows.items()}
    faults = {number: reason for number, reason in reasons.items() if reason}
    if len(faults) == len(rows):
        raise ValueError(f"no problem leaves room for its answer: {next(iter(faults.values()))}")
    return faults


def _results(samples: list[dict[str, Any]], lm: DiffusionLM) -> dict[str, Any]:
    count, correct = len(samples), sum(sample["correct"] for sample in samples)
    accuracy = correct / count
    return {
        "accuracy": accuracy,
        "correct": correct,
        "problems": count,
        "standard_error": (accuracy * (1 - accuracy) / count) ** 0.5,
        "tokens_per_second": lm.tokens / lm.seconds,
        "forward_passes_per_answer": lm.passes / lm.answers,
    }


def _trace(lm: DiffusionLM, problem: dict[str, Any]) -> dict[str, Any]:
    """A `sample` with `passes`: after each pass the answer's tokens as texts, None if masked."""
    prompt = lm.encode(problem)
    prompt_BP = torch.tensor([prompt], device=lm.model.device)
    passes = [[None] * lm.config.gen_length]
    answer: list[int] = []
    for generation in sampler.stream(lm.model, prompt_BP, **lm.options()):
        answer = generation.tokens_BL[0, len(prompt) :].tolist()
        passes.append([_text(lm.tokenizer, token) for token in answer])
    (response,) = lm.tokenizer.batch_decode([sampler.before_stop(answer, lm.stops)])
    correct = forms.is_right(response, problem, lm.config.form)
    return sample(problem, response, correct, lm.config.form) | {"passes": passes}


def _text(tokenizer: Any, token: int) -> Any:
    return None if token == tokenizer.mask_token_id else tokenizer.decode([token])


def _write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
