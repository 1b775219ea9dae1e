"""Bad input through the real command lines: one line, the exit code, nothing that looks done."""

import json
import resource
import shutil
import subprocess
import sys

import pytest

from components.artifact import RECORD
from tests.conftest import ROOT, stage

SFT = {"steps": 1, "batch_size": 2, "micro_batch_size": 2, "max_length": 64}


def sft(root, base, dataset, config):
    return stage(
        "sft",
        config,
        check=False,
        base=base,
        dataset=dataset,
        trained=root / "trained",
        metrics=root / "metrics",
    )


def refused(done, root, *words, code=2):
    """One line that holds the words, the exit code, no traceback, no record."""
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if ": error: " in line]
    for word in words:
        assert word in line
    assert not list(root.rglob(RECORD))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"step": 3}, ["step", "did you mean steps?"]),
        ({"learning_rate": 2.0}, ["learning_rate=2.0", "above 0, below 1"]),
        ({"steps": 1.5}, ["steps=1.5", "a whole number"]),
        ({"steps": True}, ["steps=True", "a whole number"]),
        ({"lora": {"rank": 0}}, ["lora.rank=0", "1 or more"]),
        ({"lora": {"targets": ["o_proj"]}}, ["o_proj", "attn_out"]),
        ({"betas": [0.9]}, ["betas=[0.9]", "a list of 2"]),
        ({"precision": "fp8"}, ["precision='fp8'", "bf16"]),
    ],
)
def test_config(tmp_path, downloaded, change, words):
    done = sft(tmp_path, downloaded / "model", downloaded / "dataset", {**SFT, **change})
    refused(done, tmp_path, "components.sft", *words)


def test_a_fork_says_what_the_command_says(tmp_path, downloaded):
    """The other tests run a stage in a fork; this one is `python -m` itself."""
    paths = {name: tmp_path / name for name in ("trained", "metrics")}
    paths |= {
        name: downloaded / folder for name, folder in (("base", "model"), ("dataset", "dataset"))
    }
    command = [sys.executable, "-m", "components.sft", "--config", json.dumps({**SFT, "step": 3})]
    command += [word for name, path in paths.items() for word in (f"--{name}", str(path))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    refused(done, tmp_path, "components.sft", "did you mean steps?")
    forked = sft(tmp_path, downloaded / "model", downloaded / "dataset", {**SFT, "step": 3})
    assert (forked.returncode, forked.stderr) == (done.returncode, done.stderr)


def test_whole_float_is_an_integer(tmp_path, downloaded):
    done = sft(tmp_path, downloaded / "model", downloaded / "dataset", {**SFT, "steps": 1.0})
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "trained" / RECORD).read_text())["config"]["steps"] == 1


def test_not_json(tmp_path, downloaded):
    command = [sys.executable, "-m", "components.merge", "--config", "{", "--base", "x"]
    command += ["--trained", "x", "--model", str(tmp_path / "m"), "--metrics", str(tmp_path / "n")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    refused(done, tmp_path, "--config: not JSON")


def test_missing_input(tmp_path, downloaded):
    done = sft(tmp_path, tmp_path / "nowhere", downloaded / "dataset", SFT)
    refused(done, tmp_path, "nowhere: no such directory")


def test_input_without_record(tmp_path, downloaded):
    base = tmp_path / "base"
    shutil.copytree(downloaded / "model", base, ignore=shutil.ignore_patterns(RECORD))
    refused(sft(tmp_path, base, downloaded / "dataset", SFT), tmp_path, str(base), RECORD)


def test_flipped_byte(tmp_path, downloaded):
    base = tmp_path / "base"
    shutil.copytree(downloaded / "model", base)
    weights = base / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-100] ^= 1
    weights.write_bytes(content)
    done = sft(tmp_path, base, downloaded / "dataset", SFT)
    (base / RECORD).unlink()
    refused(done, tmp_path, "model.safetensors", "sha256")


def test_output_in_use(tmp_path, downloaded):
    (tmp_path / "trained").mkdir()
    (tmp_path / "trained" / "precious").write_text("kept")
    done = sft(tmp_path, downloaded / "model", downloaded / "dataset", SFT)
    refused(done, tmp_path, "trained: not empty")
    assert (tmp_path / "trained" / "precious").read_text() == "kept"


def test_full_disk_while_saving(tmp_path, downloaded):
    """A limit on file size stands for the disk: writing the weights fails half way."""
    command = [sys.executable, "-m", "components.merge", "--base", str(downloaded / "model")]
    command += ["--trained", str(downloaded / "model"), "--model", str(tmp_path / "model")]
    command += ["--metrics", str(tmp_path / "metrics")]
    done = subprocess.run(
        command,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)),
    )
    refused(done, tmp_path, "cannot write to", str(tmp_path / "model"), code=1)
