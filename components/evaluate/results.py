"""Asks a model the tasks by lm_eval, and reads off each task's score and its samples.

lm_eval's own results stay as they are; here is what they leave open: which of a task's metrics
counts, how uncertain it is, and what made it.
"""

import math
import platform
import random
from pathlib import Path
from typing import Any

import lm_eval
import numpy as np
import torch
from lm_eval.api.model import LM
from lm_eval.api.task import Task

from components import artifact
from components.evaluate import published, requests
from components.evaluate.config import EvaluateConfig
from components.evaluate.task import UnseenProblems, sample
from components.evaluate.tasks import FEWSHOT_SEED, Suite
from components.failure import explain

# The metric that counts, where a task has several: the first of these, or else the task's first.
# Published scores of ARC, HellaSwag and PIQA are normalised by the length of the choices.
METRICS = ("acc_norm", "exact_match", "acc")
BOOTSTRAP = 1_000  # resamples for the standard error of a metric that is no mean
FIGURES = (
    *("accuracy", "correct", "problems", "standard_error", "tokens_per_second"),
    *("forward_passes_per_answer", "too_long", "unusable"),
)


def ask(lm: LM, suite: Suite, config: EvaluateConfig) -> dict[str, Any]:
    """lm_eval's results of every task, `samples` included.

    Every request is built first, so that one that the model's context cannot hold is refused
    before any is asked.
    """
    chat = config.form == "chat"
    how: dict[str, Any] = {
        "limit": config.limit,
        "system_instruction": config.system,
        "apply_chat_template": chat,
        "fewshot_as_multiturn": config.fewshot_multiturn,
    }
    if hasattr(lm, "check"):
        template = lm.apply_chat_template if chat else None
        for name, task in suite.tasks.items():
            _seed(task)
            _build(name, task, chat_template=template, **how)
            lm.check(task.instances)
    for task in suite.tasks.values():
        _seed(task)
    results = lm_eval.evaluate(
        lm=lm,
        task_dict=suite.as_task_dict,  # type: ignore[arg-type]
        bootstrap_iters=BOOTSTRAP,
        confirm_run_unsafe_code=config.allow_code,
        **how,
    )
    assert results is not None, "lm_eval returns None in processes of other ranks only"
    return dict(results)


def _seed(task: Task) -> None:
    """Draws of lm_eval's tasks: worked examples, the order of choices. As lm_eval seeds them."""
    random.seed(0)
    np.random.seed(FEWSHOT_SEED)
    torch.manual_seed(FEWSHOT_SEED)
    if not isinstance(task, UnseenProblems):
        task.set_fewshot_seed(FEWSHOT_SEED)


def _build(name: str, task: Task, **how: Any) -> None:
    """Builds a task's requests. Raises ValueError naming the task, for one that cannot be built."""
    try:
        task.build_all_requests(**how)
    except Exception as error:  # whatever a template or a task's own code raises
        kind = type(error).__name__
        raise ValueError(f"task {name}: its requests fail: {kind}: {explain(error)}") from None


def scores(results: dict[str, Any], suite: Suite) -> dict[str, dict[str, Any]]:
    """The score of every task and group that was named, and of each part of a group."""
    names = list(dict.fromkeys([*suite.names, *suite.tasks]))
    return {name: _score(name, results, suite) for name in names}


def _score(name: str, results: dict[str, Any], suite: Suite) -> dict[str, Any]:
    values = results["results"][name]
    key = counting(values)
    metric, _, filtering = key.partition(",")
    error: Any = values.get(f"{metric}_stderr,{filtering}")
    counts = results["n-samples"]
    problems = sum(counts[part]["effective"] for part in _leaves(name, suite))
    score = float(values[key])
    if isinstance(suite.tasks.get(name), UnseenProblems):
        error = (score * (1 - score) / problems) ** 0.5
    return {
        "score": score,
        "metric": key,
        "higher_is_better": results["higher_is_better"].get(name, {}).get(metric, True),
        "problems": problems,
        "standard_error": error if isinstance(error, float) else None,
    }


def counting(values: dict[str, Any]) -> str:
    """`metric,filter` of the metric that counts, among a task's results."""
    keys = [key for key in values if "," in key and "_stderr," not in key]
    ranked = [key for metric in METRICS for key in keys if key.partition(",")[0] == metric]
    return (ranked or keys)[0]


def _leaves(name: str, suite: Suite) -> list[str]:
    if name in suite.tasks:
        return [name]
    return [task.task_name for task in suite.groups[name].get_all_tasks()]


def samples(results: dict[str, Any], suite: Suite, config: EvaluateConfig) -> list[dict[str, Any]]:
    """Every answer with its task, prompt, the expected answer and the verdict, in their order."""
    rows = []
    for name, task in suite.tasks.items():
        values = results["results"][name]
        metric, _, filtering = counting(values).partition(",")
        for row in results["samples"][name]:
            if row["filter"] == filtering:
                ours = isinstance(task, UnseenProblems)
                made = _own(row, config) if ours else _theirs(row, metric)
                rows.append({"task": name, **made})
    return rows


def _own(row: dict[str, Any], config: EvaluateConfig) -> dict[str, Any]:
    return sample(row["doc"], row["resps"][0][0], bool(row["exact_match"]), config.form)


def _theirs(row: dict[str, Any], metric: str) -> dict[str, Any]:
    """`correct` is the value of the metric; None where it is no number, as with perplexity."""
    (first, *_) = row["arguments"]
    responses = [answers[0] for answers in row["resps"]]
    return {
        "problem": row["doc_id"],
        "prompt": requests.readable(first[0]),
        "answer": str(row["target"]),
        "response": responses[0] if isinstance(responses[0], str) else json_values(responses),
        "solution": json_values(row["filtered_resps"][0]),
        "correct": _number(row.get(metric)),
    }


def _number(value: Any) -> float | None:
    is_number = isinstance(value, int | float | np.number) and math.isfinite(value)
    return float(value) if is_number else None


def json_values(value: Any) -> Any:
    """Nested values as JSON holds them; what it cannot hold becomes a text."""
    if isinstance(value, list | tuple):
        return [json_values(item) for item in value]
    if isinstance(value, dict):
        return {str(key): json_values(item) for key, item in value.items()}
    if isinstance(value, np.generic):
        return value.item()
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)


def content(
    results: dict[str, Any], suite: Suite, config: EvaluateConfig, lm: Any, counts: dict[str, int]
) -> dict[str, Any]:
    """What results.json holds: the first task's figures, all tasks, how they were made, and
    lm_eval's own results."""
    by_task = scores(results, suite)
    first = suite.names[0]
    return {
        **_figures(by_task[first]),
        **_speed(lm),
        **counts,
        "task": first,
        "tasks": by_task,
        "published": published.compare(config, by_task[first]["score"], by_task[first]["problems"]),
        **_circumstances(config, lm),
        **{key: json_values(value) for key, value in results.items() if key != "samples"},
    }


def figures(content: dict[str, Any]) -> dict[str, Any]:
    """The numbers among the results, one level deep: what metrics and records hold.

    Where there are several tasks, also the score of each.
    """
    names = content["tasks"] if len(content["tasks"]) > 1 else ()
    scores = {f"score_{name}": content["tasks"][name]["score"] for name in names}
    return {name: content[name] for name in FIGURES} | scores


def _figures(score: dict[str, Any]) -> dict[str, Any]:
    """The first task's score as the figures by which the pipeline decides."""
    return {
        "accuracy": score["score"],
        "correct": round(score["score"] * score["problems"]),
        "problems": score["problems"],
        "standard_error": score["standard_error"],
    }


def _speed(lm: Any) -> dict[str, Any]:
    return {
        "tokens_per_second": lm.tokens / lm.seconds if lm.seconds else 0.0,
        "forward_passes_per_answer": lm.passes / lm.answers if lm.answers else 0.0,
    }


def _circumstances(config: EvaluateConfig, lm: Any) -> dict[str, Any]:
    """All that a score may depend on beside the model."""
    device = lm.model.device
    is_gpu = device.type == "cuda"
    return {
        "seed": config.seed,
        "device": torch.cuda.get_device_name(device) if is_gpu else "cpu",
        "precision": str(lm.model.dtype).removeprefix("torch."),
        "processor": _processor(),
        "packages": {**artifact.versions(), "python": platform.python_version()},
        "cuda": torch.version.cuda if is_gpu else None,
        "throughput": lm.throughput(),
        "config": json_values(vars(config)),
    }


def _processor() -> str:
    """The processor's name, where Linux tells it."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.machine()
    names = [line.partition(":")[2] for line in text.splitlines() if line.startswith("model name")]
    return names[0].strip() if names else platform.machine()
