"""Paths that may not be read or written: one line that names the path, through the real command."""

import json
import os
import subprocess
import sys

import pytest

from components.artifact import RECORD
from tests.conftest import ROOT

# Root, too, is denied what it has no permission for once it has given its capabilities up.
WITHOUT = ("setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs")


def merge(base, out):
    command = [
        sys.executable,
        "-m",
        "components.merge",
        "--base",
        str(base),
        "--trained",
        str(base),
    ]
    command += ["--model", str(out / "model"), "--metrics", str(out / "metrics")]
    prefix = WITHOUT if os.geteuid() == 0 else ()
    return subprocess.run(
        [*prefix, *command], cwd=ROOT, capture_output=True, text=True, check=False
    )


def copy(source, target):
    target.mkdir()
    for file in source.iterdir():
        (target / file.name).write_bytes(file.read_bytes())


def hide_record(root):
    (root / "base" / RECORD).chmod(0)
    return root / "base" / RECORD


def hide_weights(root):
    (root / "base" / "model.safetensors").chmod(0)
    return root / "base" / "model.safetensors"


def hide_input(root):
    (root / "base").chmod(0)
    return root / "base"


def protect_parent(root):
    (root / "out").chmod(0o555)
    return root / "out" / "model"


def protect_output(root):
    (root / "out" / "model").mkdir(mode=0o555)
    return root / "out" / "model"


@pytest.mark.parametrize(
    "deny", [hide_record, hide_weights, hide_input, protect_parent, protect_output]
)
def test_denied(downloaded, tmp_path, deny):
    copy(downloaded / "model", tmp_path / "base")
    (tmp_path / "out").mkdir()
    denied = deny(tmp_path)
    done = merge(tmp_path / "base", tmp_path / "out")
    for path in (tmp_path / "base", tmp_path / "out"):
        path.chmod(0o755)
    refused(done, 1, str(denied), "Permission denied")


@pytest.mark.parametrize(
    ("name", "code", "words"),
    [
        ("file/below", 1, "Not a directory"),
        ("file", 2, "not a directory"),
        ("x" * 300, 1, "File name too long"),
    ],
)
def test_no_directory(downloaded, tmp_path, name, code, words):
    """Where a file is, or none can be."""
    (tmp_path / "file").write_text("precious")
    out = tmp_path / name if name != "file" else tmp_path
    (tmp_path / "model").write_text("precious") if name == "file" else None
    refused(merge(downloaded / "model", out), code, words)
    assert (tmp_path / "file").read_text() == "precious"


def refused(done, code, *words):
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("components.merge: error: ")
    for word in words:
        assert word in line


def test_no_place_for_checkpoints(downloaded, tmp_path):
    """Is found before the first step, not when the first one is to be saved."""
    (tmp_path / "file").write_text("precious")
    kept = {"checkpoint_uri": str(tmp_path / "file" / "kept"), "steps": 1, "max_length": 60}
    config = json.dumps({**kept, "batch_size": 1})
    command = [sys.executable, "-m", "components.sft", "--config", config]
    for name, path in (("base", downloaded / "model"), ("dataset", downloaded / "dataset")):
        command += [f"--{name}", str(path)]
    for name in ("trained", "metrics"):
        command += [f"--{name}", str(tmp_path / name)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"components.sft: error: {tmp_path}/file")
    assert "step 1/1" not in done.stdout + done.stderr
