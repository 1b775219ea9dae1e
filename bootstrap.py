"""Makes a virtual environment with pip, also where Debian's python3-venv is not installed.

Debian's python3 alone has no ensurepip. Then pip's wheel is fetched from the package index
(PIP_INDEX_URL, PyPI by default), checked against a pinned checksum, and used to install itself.
"""

import hashlib
import importlib.util
import os
import re
import subprocess
import sys
import tempfile
import urllib.parse
import urllib.request
import venv
from pathlib import Path

PIP = "pip-26.3-py3-none-any.whl"
SHA256 = "f3b60b20ffaadd4415ed7957212a38ac63fa4c5fa375bd0f4a797777940fad13"
INDEX = os.environ.get("PIP_INDEX_URL", "https://pypi.org/simple").rstrip("/")


def main(target: str) -> None:
    """Creates the environment `target` in the place of an older one."""
    has_pip = importlib.util.find_spec("ensurepip") is not None
    venv.create(target, with_pip=has_pip, clear=True, symlinks=True)
    if has_pip:
        return
    with tempfile.TemporaryDirectory() as directory:
        wheel = Path(directory) / PIP
        wheel.write_bytes(fetch())
        python = Path(target) / "bin" / "python"
        command = [python, f"{wheel}/pip", "install", "--quiet", "--no-index", wheel]
        subprocess.run(command, check=True)


def fetch() -> bytes:
    """Pip's wheel from the index. Ends the process if its checksum is not the pinned one."""
    page = f"{INDEX}/pip/"
    with urllib.request.urlopen(page) as answer:
        links = re.findall(r'href="([^"#]+)', answer.read().decode())
    link = next(link for link in links if link.endswith(f"/{PIP}"))
    with urllib.request.urlopen(urllib.parse.urljoin(page, link)) as answer:
        content = answer.read()
    if hashlib.sha256(content).hexdigest() != SHA256:
        sys.exit(f"bootstrap: {PIP} from {INDEX} does not have the pinned checksum")
    return content


if __name__ == "__main__":
    main(sys.argv[1])
