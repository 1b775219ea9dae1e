"""The report as a self-contained HTML page: accuracies, curves, table, denoising, provenance.

Bars and denoising, which an evaluation's own page shows as well, are drawn by `components.drawing`.
"""

import json
from html import escape
from typing import Any, NamedTuple

from components.drawing import WIDTH, as_bar, bars, denoising, document
from components.report import table

HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 220, 56, 16, 16, 34  # a plot and its margins
Point = tuple[float, float]
"""A step and the value of a figure there."""


def render_page(
    report: dict[str, Any],
    curves: dict[str, list[dict[str, Any]]],
    traces: list[dict[str, Any]],
    record: dict[str, Any],
) -> str:
    """The page of a run.

    `report` is the content of report.json, `curves` the metrics of each training stage, a
    dictionary per step, `traces` those of the last evaluation and `record` its artifact record.
    """
    tone = "soft" if "NOT" not in report["verdict"] else "bad"
    parts = [
        f"<h1>{escape(report['title'])}</h1>",
        f"<p class='{tone}'>{escape(report['verdict'])}; {report['total_seconds']:.0f} s in all, "
        f"peak memory {report['peak_memory_bytes'] / 2**20:.0f} MB</p>",
        "<h2>Scores on unseen problems</h2>",
        *(_scores(*item) for item in report["tasks"].items()),
        "<h2>Training</h2>",
        *(_curve(f"{stage}: loss", steps, "loss") for stage, steps in curves.items()),
        *(
            _curve(f"{stage}: {figure}", steps, figure)
            for stage, steps in curves.items()
            for figure in ("accuracy", "reward")
            if figure in steps[0]
        ),
        "<h2>Stages</h2>",
        _table(report["table"]),
        "<h2>Answers as they denoise</h2>",
        "<p class='soft'>One row a forward pass, one cell a token; hatched is masked, coloured was "
        "committed in that pass.</p>",
        *(denoising(trace) for trace in traces),
        "<h2>Provenance</h2>",
        _provenance(record),
    ]
    return document(report["title"], parts)


def _scores(task: str, stages: dict[str, dict[str, Any]]) -> str:
    """A task's score after each stage, with a whisker of one standard error to either side."""
    shown = bars({stage: as_bar(score) for stage, score in stages.items()})
    return f"<h3>{escape(task)}</h3>{shown}"


class Scales(NamedTuple):
    """Steps from 0 to `last` and values from `low` to `high`, as positions in a plot."""

    last: float
    low: float
    high: float

    def x(self, step: float) -> str:
        return f"{LEFT + (WIDTH - LEFT - RIGHT) * step / self.last:.1f}"

    def y(self, value: float) -> str:
        """Values beyond the scale are drawn at its end."""
        height = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low or 1.0)
        return f"{HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * height:.1f}"

    def line(self, points: list[Point]) -> str:
        return " ".join(f"{self.x(step)},{self.y(value)}" for step, value in points)


def _curve(title: str, steps: list[dict[str, Any]], figure: str) -> str:
    """A figure over the steps: its values as a thin line, their moving average as a thick one."""
    points = [(step["step"], step[figure]) for step in steps if figure in step]
    scales = _scales(points)
    return (
        f"<h3>{escape(title)}</h3><svg viewBox='0 0 {WIDTH} {HEIGHT}' role='img'>{_ticks(scales)}"
        f"<polyline points='{scales.line(points)}' fill='none' stroke='var(--a)' "
        "stroke-opacity='.3'/>"
        f"<polyline points='{scales.line(_smooth(points))}' fill='none' stroke='var(--a)' "
        "stroke-width='2.5'/></svg>"
    )


def _scales(points: list[Point]) -> Scales:
    """From 0, or a lower least value, to the 99th percentile: a spike would flatten the rest."""
    values = sorted(value for _, value in points)
    high = values[int(0.99 * (len(values) - 1))] or 1.0
    return Scales(last=points[-1][0], low=min(0.0, values[0]), high=high)


def _smooth(points: list[Point]) -> list[Point]:
    """The mean over a twentieth of the run around each step; less than that at both ends."""
    reach = max(len(points) // 40, 1)
    values = [value for _, value in points]
    near = [values[max(at - reach, 0) : at + reach + 1] for at in range(len(values))]
    return [(step, sum(some) / len(some)) for (step, _), some in zip(points, near, strict=True)]


def _ticks(scales: Scales) -> str:
    """Labels of both axes: at their ends and in the middle."""
    last, low, high = scales
    values = [
        f"<text x='6' y='{scales.y(value)}'>{value:.2g}</text>"
        for value in (low, (low + high) / 2, high)
    ]
    steps = [
        f"<text x='{scales.x(step)}' y='{HEIGHT - 10}' text-anchor='middle'>{step:.0f}</text>"
        for step in (0, last / 2, last)
    ]
    return "".join(values + steps)


def _table(rows: list[dict[str, Any]]) -> str:
    head = "".join(f"<th>{name}</th>" for name in table.COLUMNS)
    lines = "".join(
        f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in table.cells(row))}</tr>"
        for row in rows
    )
    return f"<div class='wide'><table><tr>{head}</tr>{lines}</table></div>"


def _provenance(record: dict[str, Any]) -> str:
    """Versions, and the configuration of every stage in the lineage, folded up."""
    versions = {name: record[name] for name in ("git_commit", "packages", "python", "created")}
    sections = [("versions", versions)] + [
        (f"{entry['stage']} / {entry['output']} {entry['fingerprint'][:12]}", entry["config"])
        for entry in record["lineage"]
    ]
    return "".join(
        f"<details><summary>{escape(name)}</summary><pre>{escape(json.dumps(facts, indent=1))}"
        "</pre></details>"
        for name, facts in sections
    )
