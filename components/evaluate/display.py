"""An evaluation for people to read: a page with answers as they denoise, and a summary."""

from typing import Any

from components import drawing
from components.drawing import QUANTILE, escape_markdown
from components.evaluate import published

SHOWN = 10  # samples of a task in the summary
HEAD = "| task | score | 95% interval | problems | metric |\n|---|---|---|---|---|"
CIRCUMSTANCES = ("device", "precision", "processor", "seed")


def page(content: dict[str, Any], traces: list[dict[str, Any]]) -> str:
    """A self-contained HTML page: each task's score, and the traced answers pass by pass.

    `content` is what results.json holds.
    """
    parts = [
        "<h1>Scores on unseen problems</h1>",
        *(_bar(name, score) for name, score in content["tasks"].items()),
        *(f"<p class='soft'>{drawing.escape(text)}</p>" for text in _notes(content)),
        "<h2>Answers as they denoise</h2>" if traces else "",
        *(drawing.denoising(trace) for trace in traces),
    ]
    return drawing.document("Evaluation", parts)


def _bar(name: str, score: dict[str, Any]) -> str:
    title = f"<h3>{drawing.escape(name)}</h3>"
    if not is_share(score):
        return f"{title}<p>{_percent(score)}</p>"
    return title + drawing.bars({"this model": drawing.as_bar(score)})


def summary(content: dict[str, Any], figures: dict[str, Any], samples: list[dict[str, Any]]) -> str:
    """Markdown: each task's score with its interval, every figure, and the first samples."""
    values = [f"| {name} | {_number(value)} |" for name, value in figures.items()]
    shown = {name: [s for s in samples if s["task"] == name][:SHOWN] for name in content["tasks"]}
    rows = [_row(sample) for of_task in shown.values() for sample in of_task]
    return "\n".join(
        [
            "# Scores on unseen problems",
            "",
            HEAD,
            *(_task(name, score) for name, score in content["tasks"].items()),
            "",
            *(f"{escape_markdown(text)}\n" for text in _notes(content)),
            "| figure | value |",
            "|---|---|",
            *values,
            "",
            "| task | prompt | answer | response | correct |",
            "|---|---|---|---|---|",
            *rows,
            "",
        ]
    )


def lines(content: dict[str, Any]) -> list[str]:
    """A line for each task, for a terminal."""
    scores = content["tasks"].items()
    texts = [f"{name}: {_percent(score)} of {score['problems']}" for name, score in scores]
    return texts + ([published.verdict(content["published"])] if content["published"] else [])


def interval(score: dict[str, Any]) -> str:
    """The 95% interval of a score, in percent for a share; empty if its error is unknown."""
    error = score["standard_error"]
    if error is None:
        return ""
    low, high = (score["score"] + sign * QUANTILE * error for sign in (-1, 1))
    if is_share(score):
        return f"{100 * max(low, 0):.1f} to {100 * min(high, 1):.1f}"
    return f"{low:.4g} to {high:.4g}"


def is_share(score: dict[str, Any]) -> bool:
    """Whether a score is between 0 and 1, to be shown in percent; a perplexity is not."""
    return bool(score["higher_is_better"]) and 0 <= score["score"] <= 1


def _percent(score: dict[str, Any]) -> str:
    return f"{100 * score['score']:.1f}%" if is_share(score) else f"{score['score']:.4g}"


def _task(name: str, score: dict[str, Any]) -> str:
    cells = [name, _percent(score), interval(score), str(score["problems"]), score["metric"]]
    return f"| {' | '.join(escape_markdown(cell) for cell in cells)} |"


def _notes(content: dict[str, Any]) -> list[str]:
    """What the scores are to be read with: the published figure, and what they were made on."""
    comparison = content["published"]
    made = ", ".join(f"{name} {content[name]}" for name in CIRCUMSTANCES)
    packages = ", ".join(f"{name} {version}" for name, version in content["packages"].items())
    return [*([published.verdict(comparison)] if comparison else []), f"{made}; {packages}"]


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _row(sample: dict[str, Any]) -> str:
    names = ("task", "prompt", "answer", "response")
    texts = [escape_markdown(str(sample[name])) for name in names]
    return f"| {' | '.join(texts)} | {_verdict(sample['correct'])} |"


def _verdict(correct: Any) -> str:
    """Yes and no for 1 and 0; another value of a metric is shown as it is."""
    if correct is None:
        return ""
    return {0: "no", 1: "yes"}.get(correct, _number(correct))
