"""Several at once: runs in one output, in one checkpoint place, and four tiny pipelines.

What a second start is told while the first one runs is in `tests/components/test_taken_up.py`.
"""

import json
import subprocess
import sys

import pytest

from components import artifact, storage
from tests.components.conftest import point_at
from tests.components.forked import finish, start
from tests.conftest import ROOT

SMALL = {"steps": 8, "batch_size": 4, "micro_batch_size": 2, "max_length": 64, "examples": 50}
LONG = {**SMALL, "steps": 60}
SHAPE = {"d_model": 16, "n_layers": 1, "n_heads": 1, "mlp_hidden_size": 16}
SHORT = (
    *("pretrain.steps=2", "sft.steps=2", "dpo.steps=1", "release.accuracy=0"),
    *("download.test_problems=4", "download.examples=200"),
    *(f"download.shape.{name}={value}" for name, value in SHAPE.items()),
)


def test_four_into_one_output(downloaded, tmp_path):
    """Whichever wins, the output is of one run: no step twice, and the weights of a run alone."""
    opened = {"base": downloaded / "model", "dataset": downloaded / "dataset"}

    def begin(name, place):
        outputs = {output: tmp_path / place / output for output in ("trained", "metrics")}
        return start("sft", LONG, output=tmp_path / name, **opened, **outputs)

    finish(begin("said-alone", "alone"), tmp_path / "said-alone")
    running = {name: begin(name, "out") for name in ("said-a", "said-b", "said-c", "said-d")}
    for process in running.values():
        process.join()
    losers = [name for name, process in running.items() if process.exitcode != 0]
    assert sorted(process.exitcode for process in running.values()) == [0, 2, 2, 2]
    for name in losers:
        (line,) = (tmp_path / name).read_text().splitlines()
        assert "another process is writing it: process" in line
    artifact.verify(tmp_path / "out" / "trained")
    lines = (tmp_path / "out" / "metrics" / artifact.METRICS).read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, LONG["steps"] + 1))
    file = "trained/model.safetensors"
    assert (tmp_path / "out" / file).read_bytes() == (tmp_path / "alone" / file).read_bytes()


@pytest.mark.parametrize("kind", ["local", "s3"])
def test_four_in_one_checkpoint_place(kind, nanio, downloaded, tmp_path, monkeypatch):
    point_at(nanio, monkeypatch)
    place = {"local": str(tmp_path / "kept"), "s3": f"s3://bucket/{tmp_path.name}"}[kind]
    config = {**SMALL, "checkpoint_uri": place, "checkpoint_steps": 1}
    opened = {"base": downloaded / "model", "dataset": downloaded / "dataset"}

    def begin(name, config):
        outputs = {output: tmp_path / name / output for output in ("trained", "metrics")}
        return start("sft", config, output=tmp_path / f"{name}.txt", **opened, **outputs)

    running = {name: begin(name, config) for name in "abcd"}
    running["alone"] = begin("alone", SMALL)
    for name, process in running.items():
        finish(process, tmp_path / f"{name}.txt")
        artifact.verify(tmp_path / name / "trained")
    weights = {(tmp_path / name / "trained/model.safetensors").read_bytes() for name in running}
    assert len(weights) == 1
    folders = {name.split("/")[1] for name in storage.list_files(place)}
    assert folders == {"step-00000007", "step-00000008"}


def test_four_pipelines_at_once(tmp_path):
    """Each in its own folder, with `latest` its own; models and answers are those of one alone."""

    def begin(name):
        command = [sys.executable, "-m", "pipelines.local", "--runs", str(tmp_path / name)]
        command += ["--preference", "dpo"]
        for setting in SHORT:
            command += ["--set", setting]
        return subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    running = {name: begin(name) for name in "abcd"}
    for name, process in running.items():
        said = process.communicate()[0]
        assert process.returncode == 0, said
        assert str((tmp_path / name / "latest").resolve()) in said
    alone = begin("alone")
    assert alone.communicate() and alone.returncode == 0
    results = {name: result(tmp_path / name / "latest") for name in (*running, "alone")}
    assert all(each == results["alone"] for each in results.values())


def result(latest):
    """The content of all models, data and answers of a run, by stage and output."""
    (run,) = latest.parent.glob("[!l]*")
    assert latest.resolve() == run.resolve()
    content = {}
    for file in sorted(latest.resolve().rglob(artifact.RECORD)):
        record = json.loads(file.read_text())
        if record["output"] in ("model", "dataset", "trained", "release"):
            own = [record["stage"], record["output"], file.parent.parent.name]
            own[2] = "".join(sign for sign in own[2] if not sign.isdigit())
            sums = {name: facts["sha256"] for name, facts in record["files"].items()}
            sums = {name: sha for name, sha in sums.items() if name != "README.md"}
            content.setdefault(json.dumps(own), []).append(sums)
    assert len(content) > 4
    return {key: sorted(value, key=json.dumps) for key, value in content.items()}
