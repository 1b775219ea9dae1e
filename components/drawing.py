"""Figures and pages as self-contained HTML, with one style sheet and SVG: no requests, no scripts.

The policy in the head of a page holds the browser to that. Texts go into HTML through
`html.escape` and into Markdown through `escape_markdown`.
"""

import base64
import hashlib
from html import escape
from pathlib import Path
from typing import Any

STYLE = (Path(__file__).parent / "drawing.css").read_text()
STYLE_HASH = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
# A text that got into a page unescaped could still run no script, load nothing and send nothing.
POLICY = f"default-src 'none'; style-src 'sha256-{STYLE_HASH}'; base-uri 'none'; form-action 'none'"
QUANTILE = 1.96  # of the normal distribution: an interval of 95% is so many errors to each side
WIDTH = 640  # of every figure, in the units of its viewBox
BARS_LEFT, BARS_WIDTH, BAR_HEIGHT, ROW_HEIGHT, MARGIN = 90, 440, 26, 40, 14


def document(title: str, parts: list[str]) -> str:
    """A complete page with these parts as its body."""
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        "<meta name='viewport' content='width=device-width,initial-scale=1'>"
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>"
        f"<body>{''.join(parts)}</body></html>\n"
    )


def as_bar(score: dict[str, Any]) -> dict[str, Any]:
    """A task's score as `bars` draws it."""
    problems = score["problems"]
    return {
        "accuracy": score["score"],
        "standard_error": score["standard_error"],
        "correct": round(score["score"] * problems),
        "problems": problems,
    }


def bars(evaluations: dict[str, dict[str, Any]]) -> str:
    """Accuracies as horizontal bars, with a whisker of one standard error to either side."""
    rows = [_bar(number, *item) for number, item in enumerate(evaluations.items())]
    height = MARGIN + ROW_HEIGHT * len(rows)
    return f"<svg viewBox='0 0 {WIDTH} {height}' role='img'>{''.join(rows)}</svg>"


def _bar(number: int, name: str, result: dict[str, Any]) -> str:
    accuracy, error = result["accuracy"], result["standard_error"] or 0.0
    low, high = (
        BARS_LEFT + BARS_WIDTH * min(max(end, 0), 1) for end in (accuracy - error, accuracy + error)
    )
    top = MARGIN + ROW_HEIGHT * number
    middle, baseline = top + BAR_HEIGHT // 2, top + 18
    share = f"{100 * accuracy:.1f}% ({result['correct']}/{result['problems']})"
    label = share if accuracy <= 1 else f"{accuracy:.4g}"  # a perplexity is no share
    return (
        f"<text x='8' y='{baseline}'>{escape(name)}</text>"
        f"<rect x='{BARS_LEFT}' y='{top}' width='{BARS_WIDTH * min(accuracy, 1):.1f}' "
        f"height='{BAR_HEIGHT}' rx='3' fill='var(--a)'/>"
        f"<line x1='{low:.1f}' x2='{high:.1f}' y1='{middle}' y2='{middle}' "
        f"stroke='var(--ink)' stroke-width='2'/>"
        f"<text x='{high + 8:.1f}' y='{baseline}'>{label}</text>"
    )


def denoising(trace: dict[str, Any]) -> str:
    """One answer pass by pass: a row per forward pass, a cell per token."""
    rows = []
    for number, tokens in enumerate(trace["passes"]):
        before = trace["passes"][number - 1] if number else tokens
        cells = "".join(_cell(token, old) for token, old in zip(tokens, before, strict=True))
        rows.append(f"<tr><td class='pass'>{number}</td>{cells}</tr>")
    return (
        f"<h3>{escape(trace['prompt'])} <span class='soft'>({escape(_verdict(trace))})</span></h3>"
        f"<div class='wide'><table class='trace'>{''.join(rows)}</table></div>"
    )


def _verdict(trace: dict[str, Any]) -> str:
    if trace["correct"]:
        return "right"
    solution = trace.get("solution")
    fault = "no solution" if solution is None else f"{solution} is wrong"
    return f"{fault}, it is {trace['answer']}"


def _cell(token: str | None, before: str | None) -> str:
    """A token and whether this pass has committed it; a control token is shown without signs."""
    if token is None:
        return "<td class='mask'> </td>"
    kind, text = ("new" if before is None else "old"), token
    if token.startswith("<|") and token.endswith("|>"):
        kind, text = f"{kind} special", token.strip("<|>").replace("_", " ")
    return f"<td class='{kind}' title='{escape(token)}'>{escape(text)}</td>"


def escape_markdown(text: str) -> str:
    """The text on one line, with nothing in it that ends a table cell or becomes markup.

    An image would be fetched by whoever reads the page, so that brackets are escaped too.
    """
    line = " ".join(text.split())
    for sign in "\\`*_<>|[]":
        line = line.replace(sign, f"\\{sign}")
    return line
