"""The self-test, in this environment; `test_image.py` runs it in the image."""

import json
import subprocess
import sys

import torch

from tests.conftest import ROOT


def test_selftest():
    command = [sys.executable, "-m", "components.selftest"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert len(found["checks"]) == 3 and all(found["checks"].values())
    assert found["packages"]["torch"] == torch.__version__
    assert len(found["git_commit"]) == 40
