"""One self-contained HTML page: accuracies, curves, the table, answers as they denoise, provenance.

What an evaluation's own page shows as well is drawn by `components.drawing`.
"""

import json
from html import escape
from typing import Any

from components.drawing import WIDTH, bars, denoising, document

HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 220, 56, 16, 16, 34


def render(
    report: dict[str, Any],
    curves: dict[str, list[dict[str, Any]]],
    traces: list[dict[str, Any]],
    record: dict[str, Any],
) -> str:
    """The page of a run; `record` is the artifact record of the last evaluation."""
    tone = "soft" if "NOT" not in report["verdict"] else "bad"
    parts = [
        f"<h1>{escape(report['title'])}</h1>",
        f"<p class='{tone}'>{escape(report['verdict'])}; {report['total_seconds']:.0f} s in all, "
        f"peak memory {report['peak_memory_bytes'] / 2**20:.0f} MB</p>",
        "<h2>Exact match on unseen problems</h2>",
        bars(report["evaluations"]),
        "<h2>Training</h2>",
        *(_curve(f"{stage}: loss", records, "loss") for stage, records in curves.items()),
        *(
            _curve(f"{stage}: {figure}", records, figure)
            for stage, records in curves.items()
            for figure in ("accuracy", "reward")
            if figure in records[0]
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


def _curve(title: str, records: list[dict[str, Any]], figure: str) -> str:
    """A figure over the steps: every value thin, their mean over a twentieth of the run thick."""
    points = [(record["step"], record[figure]) for record in records if figure in record]
    values = sorted(value for _, value in points)
    low, high = min(0.0, values[0]), values[int(0.99 * (len(values) - 1))] or 1.0
    last = points[-1][0]

    def place(step: float, value: float) -> str:
        x = LEFT + (WIDTH - LEFT - RIGHT) * step / last
        share = (min(max(value, low), high) - low) / (high - low or 1.0)
        return f"{x:.1f},{HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * share:.1f}"

    span = max(len(points) // 40, 1)
    near = [points[max(at - span, 0) : at + span + 1] for at in range(len(points))]
    smooth = [
        (step, sum(value for _, value in window) / len(window))
        for (step, _), window in zip(points, near, strict=True)
    ]
    ticks = "".join(
        f"<text x='6' y='{place(0, value).split(',')[1]}'>{value:.2g}</text>"
        for value in (low, (low + high) / 2, high)
    ) + "".join(
        f"<text x='{place(step, low).split(',')[0]}' y='{HEIGHT - 10}' text-anchor='middle'>"
        f"{step:.0f}</text>"
        for step in (0, last / 2, last)
    )
    raw, thick = (" ".join(place(*point) for point in line) for line in (points, smooth))
    return (
        f"<h3>{escape(title)}</h3><svg viewBox='0 0 {WIDTH} {HEIGHT}' role='img'>{ticks}"
        f"<polyline points='{raw}' fill='none' stroke='var(--a)' stroke-opacity='.3'/>"
        f"<polyline points='{thick}' fill='none' stroke='var(--a)' stroke-width='2.5'/></svg>"
    )


def _table(rows: list[dict[str, Any]]) -> str:
    cells = []
    for row in rows:
        accuracy = "" if row["accuracy"] is None else f"{100 * row['accuracy']:.1f}%"
        cells.append(
            f"<tr><td>{escape(row['stage'])}</td><td>{_shown(row['steps'], 'd')}</td>"
            f"<td>{_shown(row['loss'], '.4f')}</td><td>{accuracy}</td>"
            f"<td>{_shown(row['tokens_per_second'], '.0f')}</td>"
            f"<td>{_shown(row['seconds'], '.1f')}</td>"
            f"<td>{row['peak_memory_bytes'] / 2**20:.0f} MB</td></tr>"
        )
    names = ("stage", "steps", "loss", "accuracy", "tokens/s", "seconds", "peak memory")
    head = "".join(f"<th>{name}</th>" for name in names)
    return f"<div class='wide'><table><tr>{head}</tr>{''.join(cells)}</table></div>"


def _shown(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _provenance(record: dict[str, Any]) -> str:
    facts = {name: record[name] for name in ("git_commit", "packages", "python", "created")}
    entries = [("versions", facts)] + [
        (f"{entry['stage']} / {entry['output']} {entry['fingerprint'][:12]}", entry["config"])
        for entry in record["lineage"]
    ]
    return "".join(
        f"<details><summary>{escape(name)}</summary><pre>{escape(json.dumps(facts, indent=1))}"
        "</pre></details>"
        for name, facts in entries
    )
