"""The real command line of `pipelines.submit`, for tests that run it against a server."""

import os
import subprocess
import sys

from tests.conftest import ROOT

FAST = ("--watch", "--poll", "0.01")


def submit(server, *arguments, recipe="tiny", home=None, **environment):
    """The real command line; `environment` adds variables."""
    url = server if isinstance(server, str) else server.url
    names = [recipe] if recipe else []
    command = [sys.executable, "-m", "pipelines.submit", *names, "--host", url, *arguments]
    clean = {key: v for key, v in os.environ.items() if not key.startswith(("KF", "HTTP", "http"))}
    return subprocess.run(
        command,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={**clean, "HOME": str(home or "/nonexistent"), **environment},
    )


def refused(done, *words):
    """One line that holds the words, exit code 2."""
    assert done.returncode == 2, done.stdout + done.stderr
    (line,) = done.stderr.strip().splitlines()
    for word in words:
        assert word in line
