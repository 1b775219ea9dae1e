"""Pages that hold hostile text: it stays text, and would do nothing if it did not.

Each claim is tested by an HTML parser, and in Chromium where that is installed.
"""

import copy
import re
from html.parser import HTMLParser

import pytest

from components import drawing
from components.evaluate import display
from components.release import stage as release
from components.release.config import ReleaseConfig
from components.report import page as report
from tests.browser import evaluate, needs_chromium
from tests.components.test_report import RECORD, REPORT, TRACE

TITLE = "document.title='owned'"
HOSTILE = [
    f"<script>{TITLE}</script>",
    f"</title><script>{TITLE}</script>",
    f'"><img src=x onerror="{TITLE}">',
    f'\'><svg onload="{TITLE}">',
    f"</td></table><iframe srcdoc='<script>parent.{TITLE}</script>'></iframe>",
    f"<a href='javascript:{TITLE}'>text</a>",
    "<meta http-equiv=refresh content='0;url=https://example.com'>",
    f"<|<script>{TITLE}</script>|>",
    f"&lt;script&gt;{TITLE}&lt;/script&gt;",
    "</style><style>body{display:none}</style>",
    "\u202e\u2028\x00\x1b[31m",
]
OWN = {"html", "head", "meta", "title", "style", "body", "h1", "h2", "h3", "p", "span", "div"}
OWN |= {"table", "tr", "th", "td", "svg", "rect", "line", "polyline", "text", "details"}
OWN |= {"summary", "pre"}
TASK = {"score": 0.5, "standard_error": 0.1, "problems": 8, "metric": "exact_match,none"}
TASK |= {"higher_is_better": True}


class Tags(HTMLParser):
    """The elements of a page with their attributes, its texts, and its policy."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.texts, self.policy = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if dict(attrs).get("http-equiv") == "Content-Security-Policy":
            self.policy = dict(attrs)["content"]

    def handle_data(self, data):
        self.texts.append(data)


def of_a_report(text):
    """The report of a run with the text in every place that a stranger can fill."""
    content = copy.deepcopy(REPORT)
    content |= {"title": text, "verdict": text, "table": [{**REPORT["table"][0], "stage": text}]}
    content["tasks"] = {text: content["tasks"]["test"]}
    trace = {**TRACE, "prompt": text, "answer": text, "correct": False, "solution": text}
    trace["passes"] = [[None, None], [text, None], [text, "2"]]
    record = copy.deepcopy(RECORD)
    record["lineage"][0] |= {"stage": text, "config": {"name": text}}
    curves = {text: [{"step": step, "loss": 1 / step} for step in range(1, 4)]}
    return report.render_page(content, curves, [trace], record)


def of_an_evaluation(text):
    """An evaluation's own page."""
    content = {"tasks": {text: TASK}, "published": None, "packages": {text: text}}
    content |= {name: text for name in display.CIRCUMSTANCES}
    trace = {**TRACE, "prompt": text, "correct": False, "solution": None, "answer": text}
    return display.page(content, [{**trace, "passes": [[None], [text]]}])


PAGES = {"report": of_a_report, "evaluation": of_an_evaluation}


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("kind", PAGES)
def test_hostile_text_stays_text(kind, text):
    page = Tags(PAGES[kind](text))
    assert {tag for tag, _ in page.elements} <= OWN
    names = {name for _, attributes in page.elements for name in attributes}
    assert not {name for name in names if name.startswith("on") or name in ("style", "src", "href")}
    shown = "".join(page.texts)
    assert text.strip("<|>").replace("_", " ").replace("\x00", "") in shown.replace("\x00", "")
    assert page.policy == drawing.POLICY


@pytest.mark.parametrize("kind", PAGES)
def test_the_policy_allows_the_style_sheet_of_the_page_alone(kind):
    html = PAGES[kind]("title")
    assert html.index("Content-Security-Policy") < html.index("<style>")
    assert re.findall("<style>", html) == ["<style>"] and " style=" not in html
    assert "default-src 'none'" in drawing.POLICY and "unsafe" not in drawing.POLICY


@needs_chromium
@pytest.mark.parametrize("kind", PAGES)
def test_hostile_text_stays_text_in_chromium(tmp_path, kind):
    """All of them in one page, which is otherwise as it would be: styled, and complete."""
    file = tmp_path / "page.html"
    file.write_text(PAGES[kind](" ".join(HOSTILE)), encoding="utf-8")
    facts = "{title: page.title, text: page.body.innerText, width: getComputedStyle(page.body)"
    facts += ".maxWidth, scripts: page.querySelectorAll('script, img, iframe, a').length}"
    page = evaluate(file, facts)
    assert page["title"] != "owned" and page["scripts"] == 0
    assert page["text"].count(HOSTILE[0]) >= 2 and page["width"] == "960px"


@needs_chromium
def test_a_script_that_got_into_a_page_does_not_run(tmp_path):
    """The policy by itself; without it the same page is taken over, or this would show nothing."""
    file, script = tmp_path / "page.html", f"<script>{TITLE}</script><img src=x onerror={TITLE}>"
    html = drawing.document("mine", [script])
    file.write_text(html)
    assert evaluate(file, "page.title") == "mine"
    file.write_text(html.replace("Content-Security-Policy", "ignored"))
    assert evaluate(file, "page.title") == "owned"


@pytest.mark.parametrize("text", [*HOSTILE[:-1], "![image](https://example.com/image.png)"])
def test_a_release_card_holds_no_markup_of_a_name(text):
    """Hubs render Markdown, which may hold HTML, links and images."""
    entry = {"stage": "download", "output": "model", "config": {"model": "new"}}
    record = {**RECORD, "lineage": [{**entry, "summary": {"parameters": 8}}]}
    config = ReleaseConfig(accuracy=0.1, name=text)
    card = release.card(config, record, text, {**TASK, "metric": text})
    assert not re.search(r"(?<!\\)[<\[]", card), card
    assert card.count("document" if "document" in text else "example") >= 3 or "style" in text
