"""Self-contained HTML: inline styles and SVG; nothing is fetched and no script is needed."""

from html import escape
from pathlib import Path
from typing import Any

STYLE = (Path(__file__).parent / "drawing.css").read_text()
WIDTH = 640


def document(title: str, parts: list[str]) -> str:
    """A whole page around the parts of its body."""
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width,initial-scale=1'>"
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>"
        f"<body>{''.join(parts)}</body></html>\n"
    )


def bars(evaluations: dict[str, dict[str, Any]]) -> str:
    """Horizontal bars with a whisker of one standard error to either side."""
    rows = []
    for number, (name, result) in enumerate(evaluations.items()):
        y, length = 14 + 40 * number, 440 * result["accuracy"]
        low, high = (
            90 + 440 * min(max(result["accuracy"] + sign * result["standard_error"], 0), 1)
            for sign in (-1, 1)
        )
        said = f"{100 * result['accuracy']:.1f}% ({result['correct']}/{result['problems']})"
        rows.append(
            f"<text x='8' y='{y + 18}'>{escape(name)}</text>"
            f"<rect x='90' y='{y}' width='{length:.1f}' height='26' rx='3' fill='var(--a)'/>"
            f"<line x1='{low:.1f}' x2='{high:.1f}' y1='{y + 13}' y2='{y + 13}' "
            f"stroke='var(--ink)' stroke-width='2'/>"
            f"<text x='{high + 8:.1f}' y='{y + 18}'>{said}</text>"
        )
    height = 14 + 40 * len(rows)
    return f"<svg viewBox='0 0 {WIDTH} {height}' role='img'>{''.join(rows)}</svg>"


def denoising(trace: dict[str, Any]) -> str:
    """One answer pass by pass: one row a forward pass, one cell a token."""
    rows = []
    for number, window in enumerate(trace["passes"]):
        before = trace["passes"][number - 1] if number else window
        cells = "".join(_cell(token, old) for token, old in zip(window, before, strict=True))
        rows.append(f"<tr><td class='pass'>{number}</td>{cells}</tr>")
    judged = trace.get("solution")
    given = "no solution" if judged is None else f"{judged} is wrong"
    mark = "right" if trace["correct"] else f"{given}, it is {trace['answer']}"
    return (
        f"<h3>{escape(trace['prompt'])} <span class='soft'>({escape(mark)})</span></h3>"
        f"<div class='wide'><table class='trace'>{''.join(rows)}</table></div>"
    )


def _cell(token: str | None, before: str | None) -> str:
    if token is None:
        return "<td class='mask'> </td>"
    kind = "new" if before is None else "old"
    if token.startswith("<|") and token.endswith("|>"):
        kind, shown = f"{kind} special", token.strip("<|>").replace("_", " ")
    else:
        shown = token
    return f"<td class='{kind}' title='{escape(token)}'>{escape(shown)}</td>"
