"""Measures exact match on unseen problems with lm_eval: load, ask, trace, save, record."""

import json
from pathlib import Path
from typing import Any

import lm_eval
import torch
import yaml
from lm_eval.api.task import ConfigurableTask

from components import artifact
from components import dataset as data
from components.artifact import Input, Output, OutputFile, Parameter
from components.evaluate import display
from components.evaluate.config import EvaluateConfig
from components.evaluate.harness import DiffusionLM
from model import checkpoint, sampler, tokenizer

TASK = Path(__file__).parent / "tasks" / "unseen_problems.yaml"


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
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    network = checkpoint.load(model, dtype=dtype, device=device)
    asked = DiffusionLM(network, tokenizer.load(model), config)
    found = lm_eval.simple_evaluate(
        model=asked,
        tasks=[_task(dataset / "test.jsonl")],
        limit=config.limit,
        apply_chat_template=True,
        log_samples=True,
        bootstrap_iters=0,
        random_seed=config.seed,
        numpy_random_seed=config.seed,
        torch_random_seed=config.seed,
        fewshot_random_seed=config.seed,
    )
    samples = [_sample(sample) for sample in found["samples"]["unseen_problems"]]
    results = _results(samples, asked)
    (evaluation / "results.json").write_text(json.dumps(results, indent=1))
    _write_lines(evaluation / "samples.jsonl", samples)
    problems = data.read(dataset, "test")[: config.traces]
    traces = [_trace(asked, problem) for problem in problems]
    _write_lines(evaluation / "traces.jsonl", traces)
    _write_lines(metrics / artifact.METRICS, [results])
    page.write_text(display.page(results, traces))
    summary.write_text(display.summary(results, samples))
    accuracy.write_text(json.dumps(results["accuracy"]))
    print(f"evaluate: {results['correct']} of {results['problems']} exact", flush=True)
    artifact.record(
        {"evaluation": evaluation, "metrics": metrics},
        stage="evaluate",
        config=config,
        inputs={"model": model, "dataset": dataset},
        summary=results,
    )


def _task(problems: Path) -> ConfigurableTask:
    settings = yaml.safe_load(TASK.read_text())
    settings["dataset_kwargs"] = {"data_files": {"test": str(problems)}}
    return ConfigurableTask(config=settings)


def _sample(sample: dict[str, Any]) -> dict[str, Any]:
    return {
        "prompt": sample["doc"]["prompt"],
        "answer": sample["doc"]["answer"],
        "response": sample["resps"][0][0],
        "correct": bool(sample["exact_match"]),
    }


def _results(samples: list[dict[str, Any]], asked: DiffusionLM) -> dict[str, Any]:
    count, correct = len(samples), sum(sample["correct"] for sample in samples)
    accuracy = correct / count
    return {
        "accuracy": accuracy,
        "correct": correct,
        "problems": count,
        "standard_error": (accuracy * (1 - accuracy) / count) ** 0.5,
        "tokens_per_second": asked.tokens / asked.seconds,
        "forward_passes_per_answer": asked.passes / asked.answers,
    }


def _trace(asked: DiffusionLM, problem: dict[str, str]) -> dict[str, Any]:
    """The answer window after every pass: one text a token, null where it is still masked."""
    words, model = asked.words, asked.model
    prompt = tokenizer.chat(words, data.asked(problem))
    prompt_BP = torch.tensor([prompt], device=model.device)
    windows = [[None] * asked.config.gen_length]
    answer: list[int] = []
    for generation in sampler.stream(model, prompt_BP, **asked.options()):
        answer = generation.tokens_BL[0, len(prompt) :].tolist()
        windows.append([_shown(words, token) for token in answer])
    response = words.decode([token for token in answer if token not in asked.stops])
    target = f"{tokenizer.BEGIN_SOLUTION}{problem['answer']}{tokenizer.END_SOLUTION}"
    return {
        "prompt": problem["prompt"],
        "answer": problem["answer"],
        "response": response,
        "correct": target in response,
        "passes": windows,
    }


def _shown(words: Any, token: int) -> Any:
    return None if token == words.mask_token_id else words.decode([token])


def _write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
