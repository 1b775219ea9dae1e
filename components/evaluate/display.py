"""An evaluation for people to read: a page with answers as they denoise, and a summary."""

from typing import Any

from components import drawing
from components.drawing import escape_markdown

SHOWN = 10  # samples in the summary


def page(results: dict[str, Any], traces: list[dict[str, Any]]) -> str:
    """A self-contained HTML page: the exact match, and the traced answers pass by pass."""
    parts = [
        "<h1>Exact match on unseen problems</h1>",
        drawing.bars({"this model": results}),
        "<h2>Answers as they denoise</h2>",
        *(drawing.denoising(trace) for trace in traces),
    ]
    return drawing.document("Evaluation", parts)


def summary(results: dict[str, Any], samples: list[dict[str, Any]]) -> str:
    """Markdown: every figure, and the first samples."""
    figures = [f"| {name} | {_number(value)} |" for name, value in results.items()]
    rows = [_row(sample) for sample in samples[:SHOWN]]
    return "\n".join(
        [
            "# Exact match on unseen problems",
            "",
            "| figure | value |",
            "|---|---|",
            *figures,
            "",
            "| prompt | answer | response | correct |",
            "|---|---|---|---|",
            *rows,
            "",
        ]
    )


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _row(sample: dict[str, Any]) -> str:
    texts = [escape_markdown(sample[name]) for name in ("prompt", "answer", "response")]
    return f"| {' | '.join(texts)} | {'yes' if sample['correct'] else 'no'} |"
