"""The real pipeline through the real command line, shortened in steps only."""

import json
import subprocess
import sys

import pytest

from tests.conftest import ROOT

SHORT = ("pretrain.steps=4", "sft.steps=4", "grpo.steps=2", "dpo.steps=2", "evaluate.limit=20")


def pipeline(runs, preference, *settings):
    command = [sys.executable, "-m", "pipelines.local", "--runs", str(runs)]
    command += ["--preference", preference]
    for setting in settings:
        command += ["--set", setting]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("preference", ["grpo", "dpo"])
def test_whole_pipeline(tmp_path, preference):
    bar, kept = {"grpo": 0, "dpo": 1}[preference], tmp_path / "kept"
    places = [f"{stage}.checkpoint_uri={kept}" for stage in ("pretrain", "sft", preference)]
    done = pipeline(tmp_path, preference, *SHORT, *places, f"release.accuracy={bar}")
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "latest" / "report.json").read_text())
    assert list(report["stages"]) == ["download", "pretrain", "sft", preference]
    assert report["stages"]["sft"]["steps"] == 4
    assert report["stages"][preference]["steps"] == 2
    for stage in ("pretrain", "sft", preference):
        assert 0 <= report["stages"][stage]["accuracy"] <= 1
        assert report["stages"][stage]["loss"] is not None
    assert [row["stage"] for row in report["table"]][-1] == f"evaluate {preference}"
    assert all(row["seconds"] > 0 and row["peak_memory_bytes"] > 0 for row in report["table"])
    released = list(tmp_path.glob("latest/artifacts/*/release*/release/README.md"))
    assert len(released) == (1 if bar == 0 else 0)
    page = (tmp_path / "latest" / "report.html").read_text()
    assert page.count("class='trace'") == 5
    assert "http://" not in page and "https://" not in page and "<script" not in page
    assert kept.is_dir() and not list(kept.iterdir())  # the report has no more use for them
    assert "total" in done.stdout
    headings = [line[4:] for line in done.stdout.splitlines() if line.startswith("=== ")]
    named = {"evaluate base", "evaluate sft", f"evaluate {preference}", f"merge {preference}"}
    assert named < {*headings}
    assert str((tmp_path / "latest").resolve() / "report.html") in done.stdout


def test_failing_stage_fails_the_run(tmp_path):
    done = pipeline(tmp_path, "grpo", "pretrain.window=1000")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "pretrain.window=1000, allowed: up to 128" in done.stderr
    assert "pipeline: error: stage preflight failed with exit code 2" in done.stderr
    assert not (tmp_path / "latest").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--recipe", "huge"], ["RECIPE='huge'", "tiny"]),
        (["--preference", "ppo"], ["preference='ppo'", "dpo, grpo"]),
        (["--set", "sft.step=3"], ["sft.step", "did you mean steps?"]),
        (["--set", "sft.steps=1.5"], ["sft.steps=1.5", "a whole number"]),
        (["--set", "nothing"], ["--set nothing", "STAGE.FIELD=VALUE"]),
    ],
)
def test_bad_arguments(tmp_path, arguments, words):
    command = [sys.executable, "-m", "pipelines.local", "--runs", str(tmp_path), *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    for word in words:
        assert word in line
    assert not list(tmp_path.iterdir())
