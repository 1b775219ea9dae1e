"""Disks that are full, read-only or out of inodes: one line, exit code 1, nothing looks complete.

Each has a file system of its own where root may mount one. Permissions are in
`test_denied.py`.
"""

import resource
import shutil
import subprocess

import pytest

from components import artifact
from tests.components.forked import finish, start
from tests.components.test_report_inputs import run

__all__ = ["run"]
SMALL = {"steps": 3, "batch_size": 4, "micro_batch_size": 2, "max_length": 64, "examples": 50}
ASKED = {"gen_length": 8, "block_length": 8, "limit": 4, "batch_size": 4, "traces": 1}
WORDS = {
    "full": "No space left on device",
    "no inodes": "No space left on device",
    "read-only": "Read-only file system",
}
OPTIONS = {"full": "size=4k", "no inodes": "nr_inodes=3", "read-only": "ro"}


@pytest.fixture
def disk(request, tmp_path):
    """A file system with the fault that the test names."""
    place = tmp_path / "disk"
    place.mkdir()
    if shutil.which("mount") is None:
        pytest.skip("no file system of its own: there is no mount")
    command = ["mount", "-t", "tmpfs", "-o", OPTIONS[request.param], "tmpfs", str(place)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no file system of its own: {done.stderr.strip()}")
    yield request.param, place
    subprocess.run(["umount", str(place)], check=True)


@pytest.fixture
def commands(downloaded, adapted, run):
    """Configuration, inputs and outputs of each stage that writes."""
    base, dataset = downloaded / "model", downloaded / "dataset"
    shape = {"d_model": 8, "n_layers": 1, "n_heads": 1, "mlp_hidden_size": 8}
    new = ({"model": "new", "made": "sums", "shape": shape}, {}, ("model", "dataset", "metrics"))
    opened = {"base": base, "dataset": dataset}
    reported = {
        "pretrain_metrics": run / "run" / "pretrain-metrics",
        "sft_metrics": run / "run" / "sft-metrics",
        "preference_metrics": run / "run" / "grpo-metrics",
        "base_evaluation": run / "run" / "pretrain-evaluation",
        "sft_evaluation": run / "run" / "sft-evaluation",
        "aligned_evaluation": run / "run" / "grpo-evaluation",
    }
    merged = {"base": base, "trained": adapted / "trained"}
    asked = {"model": base, "dataset": dataset}
    return {
        "download": new,
        "sft": (SMALL, opened, ("trained", "metrics")),
        "merge": (None, merged, ("model", "metrics")),
        "evaluate": (ASKED, asked, ("evaluation", "metrics")),
        "report": (None, reported, ("report", "metrics")),
    }


@pytest.mark.parametrize("disk", OPTIONS, indirect=True)
@pytest.mark.parametrize("name", ["download", "sft", "merge", "evaluate", "report"])
def test_a_disk_that_takes_nothing(commands, disk, tmp_path, name):
    fault, place = disk
    config, inputs, outputs = commands[name]
    text, paths = tmp_path / "text", {output: place / output for output in outputs}
    process = start(name, config, output=tmp_path / "said", errors=text, **inputs, **paths)
    finish(process, text, code=1)
    refused(text, name, place, WORDS[fault])


@pytest.mark.parametrize("name", ["download", "sft", "merge"])
def test_a_file_that_may_not_grow(commands, tmp_path, name):
    """What any user can have: a bound on the size of files, which weights exceed."""
    config, inputs, outputs = commands[name]
    text, paths = tmp_path / "text", {output: tmp_path / "out" / output for output in outputs}
    process = start(
        name, config, output=tmp_path / "said", errors=text, patch=bound, **inputs, **paths
    )
    finish(process, text, code=1)
    refused(text, name, tmp_path / "out", "File too large")


def bound():
    resource.setrlimit(resource.RLIMIT_FSIZE, (4_000, 4_000))


def refused(text, name, place, words):
    """One line that names the place and the reason, and no record."""
    (line,) = text.read_text().splitlines()
    assert line.startswith(f"components.{name}: error: ") and words in line and str(place) in line
    assert not list(place.rglob(artifact.RECORD))
