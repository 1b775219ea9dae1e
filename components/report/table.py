"""The run's figures by stage as a table: plain text for a terminal, Markdown for a UI."""

from typing import Any

from components.drawing import QUANTILE, escape_markdown

COLUMNS = ("stage", "steps", "loss", "accuracy", "tokens/s", "seconds", "peak memory")


def render(report: dict[str, Any]) -> str:
    """The table of `report` (report.json) as plain text, then the total and the accuracies."""
    rows = [COLUMNS, *(cells(row) for row in report["table"])]
    peak = _memory(report["peak_memory_bytes"])
    rows.append(("total", "", "", "", "", f"{report['total_seconds']:.1f}", peak))
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    lines = [
        "  ".join(
            cell.ljust(width) if number == 0 else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    rule = "-" * len(lines[0])
    accuracies = " -> ".join(
        f"{name} {100 * result['accuracy']:.1f}%" for name, result in report["evaluations"].items()
    )
    return "\n".join(
        [lines[0], rule, *lines[1:-1], rule, lines[-1], "", f"exact match: {accuracies}"]
    )


def markdown(report: dict[str, Any]) -> str:
    """The table, the title and the verdict in Markdown, for the Kubeflow UI."""
    texts = [[escape_markdown(cell) for cell in cells(row)] for row in report["table"]]
    rows = [COLUMNS, ("---",) * len(COLUMNS), *texts]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    title = f"# {escape_markdown(report['title'])}"
    return "\n\n".join([title, report["verdict"], scores(report["tasks"]), f"{table}\n"])


def scores(tasks: dict[str, dict[str, Any]]) -> str:
    """Markdown: a row per task, a column per evaluation, in percent with the 95% interval."""
    stages = list(next(iter(tasks.values())))
    rows = [("task", *map(escape_markdown, stages)), ("---",) * (len(stages) + 1)]
    for task, by_stage in tasks.items():
        rows.append((escape_markdown(task), *(_interval(by_stage[stage]) for stage in stages)))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _interval(score: dict[str, Any]) -> str:
    value, error = score["score"], score["standard_error"]
    if value > 1:  # no share: a perplexity
        return f"{value:.4g}"
    if error is None:
        return f"{100 * value:.1f}%"
    low, high = max(value - QUANTILE * error, 0.0), value + QUANTILE * error
    return f"{100 * value:.1f}% ({100 * low:.1f} to {100 * min(high, 1.0):.1f})"


def cells(row: dict[str, Any]) -> tuple[str, ...]:
    """The texts of a row of report.json's table, one per column; empty for a missing figure."""
    return (
        row["stage"],
        _number(row["steps"], "d"),
        _number(row["loss"], ".4f"),
        "" if row["accuracy"] is None else f"{100 * row['accuracy']:.1f}%",
        _number(row["tokens_per_second"], ".0f"),
        _number(row["seconds"], ".1f"),
        _memory(row["peak_memory_bytes"]),
    )


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _memory(value: int) -> str:
    return f"{value / 2**20:.0f} MB"
