"""Pages in Debian's headless Chromium: what a browser makes of them, and pictures of them.

    evaluate(page, "page.title")       the value of a JavaScript expression about a loaded page
    width(page, window=450)            how wide its content is, in CSS pixels
    screenshot(page, file)             a PNG

Tests that need Chromium carry `needs_chromium` and are skipped by name where it is not installed.
"""

import html
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

CHROMIUM = shutil.which("chromium")
SECONDS = 120
# The page stays as it is, its policy included: it is looked at from around it. A frame may also be
# narrower than Chromium's narrowest window.
FRAME = """<!doctype html><iframe width="{window}" height="900" srcdoc="{page}"></iframe>
<script>addEventListener("load", () => {{
  const page = document.querySelector("iframe").contentDocument
  document.body.innerText = JSON.stringify({expression})
}})</script>"""

needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium")


def evaluate(page: Path, expression: str, *, window: int = 1000):
    """A JavaScript expression's value; `page` is the loaded document, `window` its width in pixels.

    The scripts of the page, if its policy lets any run, have run by then.
    """
    framed = FRAME.format(
        window=window, page=html.escape(page.read_text(encoding="utf-8")), expression=expression
    )
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "frame.html")
        file.write_text(framed, encoding="utf-8")
        document = _run(file, "--dump-dom").stdout
    text = document.partition("<body>")[2].partition("</body>")[0]
    return json.loads(html.unescape(text.replace("<br>", "\n")))


def width(page: Path, window: int) -> int:
    """Pixels of the page's content in a window of that width; more than it is a sideways bar."""
    return evaluate(page, "page.documentElement.scrollWidth", window=window)


def screenshot(page: Path, file: Path, window: tuple[int, int] = (1000, 1400)) -> None:
    """Writes what a window of that width and height, 500 at least, shows, as a PNG."""
    _run(page, f"--screenshot={file}", f"--window-size={window[0]},{window[1]}")


def _run(page: Path, *options: str) -> subprocess.CompletedProcess:
    """Chromium on a local page, with a profile of its own and without the network."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        command += ["--disable-dev-shm-usage", "--no-first-run", f"--user-data-dir={profile}"]
        command += ["--host-resolver-rules=MAP * ~NOTFOUND", "--virtual-time-budget=2000"]
        return subprocess.run(
            [*command, *options, page.absolute().as_uri()],
            env={**os.environ, "HOME": profile},
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=True,
        )
