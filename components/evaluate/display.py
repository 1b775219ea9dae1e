"""An evaluation for people: a page of answers as they denoise, and a summary. Nothing reads it."""

from typing import Any

from components import drawing

SHOWN = 10  # samples in the summary


def page(results: dict[str, Any], traces: list[dict[str, Any]]) -> str:
    """One self-contained HTML page: the exact match, and the recorded answers pass by pass."""
    parts = [
        "<h1>Exact match on unseen problems</h1>",
        drawing.bars({"this model": results}),
        "<h2>Answers as they denoise</h2>",
        *(drawing.denoising(trace) for trace in traces),
    ]
    return drawing.document("Evaluation", parts)


def summary(results: dict[str, Any], samples: list[dict[str, Any]]) -> str:
    """Markdown: every figure, and the first samples with their answers."""
    figures = [f"| {name} | {_number(value)} |" for name, value in results.items()]
    rows = [
        f"| {_cell(sample['prompt'])} | {_cell(sample['answer'])} | {_cell(sample['response'])} "
        f"| {'yes' if sample['correct'] else 'no'} |"
        for sample in samples[:SHOWN]
    ]
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


def _cell(text: str) -> str:
    """Text that neither ends a table cell nor becomes markup."""
    plain = " ".join(text.split())
    for special in "\\`*_<>|":
        plain = plain.replace(special, f"\\{special}")
    return plain
