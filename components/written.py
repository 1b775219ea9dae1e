"""What evaluations and training have written, as later stages read it.

A record protects it from damage and not from a stranger, who can make a record too: every value
that a later stage computes with is checked. Reads local paths only.
"""

import json
from pathlib import Path
from types import NoneType
from typing import Any

from components import artifact, records
from model.safetensors_files import read_json

NUMBER, MAYBE = (int, float), (int, float, NoneType)
RESULTS: dict[str, Any] = {
    "task": str,
    "tasks": dict,
    "accuracy": NUMBER,
    "correct": MAYBE,
    "problems": int,
    "standard_error": MAYBE,
    "tokens_per_second": MAYBE,
    "forward_passes_per_answer": MAYBE,
    "too_long": int,
    "unusable": int,
}
SCORE: dict[str, Any] = {
    "score": NUMBER,
    "standard_error": MAYBE,
    "problems": int,
    "metric": str,
}
TRACE: dict[str, Any] = {"prompt": str, "passes": list}
CURVES = ("loss", "accuracy", "reward")
LARGEST = 10**15
LONGEST = 16 << 20  # bytes of a line


def results(evaluation: Path) -> dict[str, Any]:
    """results.json. Raises ValueError naming the file and the field that is missing or wrong."""
    file = evaluation / "results.json"
    content = read_json(file)
    try:
        records.check_fields(content, RESULTS, "")
        for name, score in content["tasks"].items():
            records.check_fields(score, SCORE, f"tasks.{name:.100}.")
            _check_sizes(score)
        _check_sizes(content)
        if content["task"] not in content["tasks"]:
            raise ValueError("its task is none of its tasks")
    except ValueError as error:
        raise ValueError(f"{file}: not an evaluation's results: {error}") from None
    return content


def _check_sizes(fields: dict[str, Any]) -> None:
    for name, value in fields.items():
        if isinstance(value, int | float) and abs(value) > LARGEST:  # NaN is no number to compare
            raise ValueError(f"{name} is beyond {LARGEST}")


def traces(evaluation: Path) -> list[dict[str, Any]]:
    """The traced answers. Raises ValueError naming the line that is none."""
    file = evaluation / "traces.jsonl"
    rows = lines(file)
    for number, row in enumerate(rows, 1):
        good = isinstance(row.get("prompt"), str) and {"answer", "correct"} <= row.keys()
        if not good or not _are_passes(row.get("passes")):
            raise ValueError(f"{file}:{number}: not the trace of an answer")
    return rows


def _are_passes(passes: Any) -> bool:
    """Whether it is a list of lists of one length, of texts and nulls."""
    good = isinstance(passes, list) and all(isinstance(each, list) for each in passes)
    return good and all(
        len(each) == len(passes[0]) and all(isinstance(token, str | None) for token in each)
        for each in passes
    )


def curve(metrics: Path) -> list[dict[str, Any]]:
    """The figures of each step. Raises ValueError naming the line that holds no numbers."""
    file = metrics / artifact.METRICS
    rows = lines(file)
    for number, row in enumerate(rows, 1):
        values = [row.get("step"), *(row[name] for name in CURVES if name in row)]
        numbers = [value for value in values if isinstance(value, int | float)]
        if len(numbers) < len(values) or any(abs(number) > LARGEST for number in numbers):
            raise ValueError(f"{file}:{number}: not the figures of a step")
    if not rows:
        raise ValueError(f"{file}: empty, allowed: a line for each step")
    return rows


def lines(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSON lines file that a stage wrote. Raises ValueError naming a bad line.

    Lines end at \\n only: the texts in them may hold other separators, such as U+2028.
    """
    rows = []
    with path.open(encoding="utf-8", newline="\n") as file:
        for number, line in enumerate(iter(lambda: file.readline(LONGEST), ""), 1):
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{path}:{number}: not JSON: {error}") from None
            if not isinstance(row, dict):
                raise ValueError(f"{path}:{number}: not a JSON object")
            rows.append(row)
    return rows
