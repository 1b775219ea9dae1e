"""Evaluation and release through their command lines: files for people, the bar, the card."""

import json
import re
import shutil

import pytest
import yaml
from safetensors import safe_open

from components import artifact
from components.release.config import ReleaseConfig
from components.release.stage import card
from tests.conftest import stage

EVALUATE = {"gen_length": 8, "block_length": 8, "limit": 3, "traces": 2}
SUMS = json.dumps({"made": "sums"})


def declare(path, kind):
    """An output artifact as KFP's executor input declares it."""
    return {
        "artifacts": [
            {"name": path.name, "uri": str(path), "type": {"schemaTitle": f"system.{kind}"}}
        ]
    }


@pytest.fixture(scope="module")
def evaluated(downloaded, tmp_path_factory):
    """An evaluation of the untrained model, run as KFP runs it."""
    root = tmp_path_factory.mktemp("evaluate")
    kinds = {"evaluation": "Artifact", "metrics": "Metrics", "page": "HTML", "summary": "Markdown"}
    executor_input = {
        "outputs": {
            "artifacts": {name: declare(root / name, kind) for name, kind in kinds.items()},
            "outputFile": str(root / "executor_output.json"),
        }
    }
    stage(
        "evaluate",
        EVALUATE,
        model=downloaded / "model",
        dataset=downloaded / "dataset",
        **{name: root / name for name in kinds},
        accuracy=root / "figures" / "accuracy",
        executor_input=json.dumps(executor_input),
    )
    return root


def metadata(evaluated, name):
    outputs = json.loads((evaluated / "executor_output.json").read_text())["artifacts"]
    (found,) = outputs[name]["artifacts"]
    return found.get("metadata", {})


def test_files_for_people(evaluated):
    page, summary = (evaluated / "page").read_text(), (evaluated / "summary").read_text()
    assert page.startswith("<!doctype html>") and page.count("class='trace'") == 2
    assert "<script" not in page
    assert summary.startswith("# Scores") and "| accuracy |" in summary
    rows = [line for line in summary.splitlines() if line.endswith((" yes |", " no |"))]
    assert len(rows) == 3
    for row in rows:
        assert len(re.findall(r"(?<!\\)\|", row)) == 6


def test_accuracy_is_a_figure_for_the_pipeline(evaluated):
    results = json.loads((evaluated / "evaluation" / "results.json").read_text())
    assert json.loads((evaluated / "figures" / "accuracy").read_text()) == results["accuracy"]


def test_artifacts_say_where_they_come_from(evaluated, downloaded):
    record = artifact.read(evaluated / "evaluation")
    with safe_open(downloaded / "model" / "model.safetensors", framework="pt") as weights:
        count = sum(weights.get_tensor(name).numel() for name in weights.keys())
    found = metadata(evaluated, "evaluation")
    assert found["base_model"] == "new" and found["parameters"] == count
    assert found["tokens"] == 0 and found["commit"] == record["git_commit"]
    assert found["stage"] == "evaluate" and found["fingerprint"] == record["fingerprint"]
    assert set(metadata(evaluated, "metrics")) == set(record["summary"])
    assert metadata(evaluated, "page") == metadata(evaluated, "summary") == {}


def test_tokens_are_counted(adapted):
    record = artifact.read(adapted / "trained")
    lines = (adapted / "metrics" / artifact.METRICS).read_text().splitlines()
    tokens = sum(json.loads(line)["tokens"] for line in lines)
    assert artifact.provenance(record)["tokens"] == record["summary"]["tokens"] == tokens > 0


def release(evaluated, model, root, accuracy, check=True):
    return stage(
        "release",
        {"accuracy": accuracy, "name": "sums"},
        check=check,
        model=model,
        evaluation=evaluated / "evaluation",
        release=root / "release",
        metrics=root / "metrics",
    )


def test_the_gate_names_its_task(evaluated, downloaded, tmp_path):
    """A task that was not asked is refused; the one that was is on the record."""
    paths = {"model": downloaded / "model", "evaluation": evaluated / "evaluation"}
    paths |= {"release": tmp_path / "release", "metrics": tmp_path / "metrics"}
    done = stage("release", {"accuracy": 0, "task": "gsm8k"}, check=False, **paths)
    refused(done, tmp_path, "task='gsm8k', allowed: a task of the evaluation: test")
    stage("release", {"accuracy": 0, "task": "test"}, **paths)
    assert artifact.read(tmp_path / "release")["summary"]["task"] == "test"


def test_release_is_the_model_with_a_card(evaluated, downloaded, tmp_path):
    release(evaluated, downloaded / "model", tmp_path, 0)
    record, model = artifact.verify(tmp_path / "release"), artifact.read(downloaded / "model")
    assert record["files"].items() >= model["files"].items()
    assert set(record["files"]) - set(model["files"]) == {"README.md"}
    _, head, text = (tmp_path / "release" / "README.md").read_text().split("---\n")
    assert "base_model" not in yaml.safe_load(head) and "- Base model: a new model, " in text
    assert "# sums" in text and "of 3 unseen" not in text and "on 3 unseen problems" in text


@pytest.mark.parametrize(
    ("hub_model", "base_model", "words"),
    [
        ("owner/model@0123", "owner/model", "- Base model: owner/model@0123, 7 parameters"),
        (None, None, "- Base model: not from a hub, 7 parameters"),
    ],
)
def test_card_names_a_base_of_the_hub_alone(hub_model, base_model, words):
    """The path of a local base tells of a machine, and a hub refuses it."""
    given = {"model": "/home/me/secret/base", "revision": "main"}
    summary = {"parameters": 7, "hub_model": hub_model}
    entry = {"stage": "download", "output": "model", "config": given, "summary": summary}
    score = {"problems": 3, "score": 0.5, "standard_error": 0.1, "metric": "exact_match,verdict"}
    text = card(ReleaseConfig(), {"git_commit": None, "lineage": [entry]}, "test", score)
    head = yaml.safe_load(text.split("---\n")[1])
    assert head.get("base_model") == base_model and words in text
    assert "/home" not in text


def refused(done, root, *words):
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if ": error: " in line]
    for word in words:
        assert word in line
    assert not list(root.rglob(artifact.RECORD))


def test_model_below_the_bar_is_refused(evaluated, downloaded, tmp_path):
    done = release(evaluated, downloaded / "model", tmp_path, 1.0, check=False)
    refused(done, tmp_path, "accuracy=", "1.0 or more")


def test_evaluation_of_another_model_is_refused(evaluated, downloaded, tmp_path):
    done = release(evaluated, downloaded / "dataset", tmp_path, 0, check=False)
    refused(done, tmp_path, "evaluation='of model")


@pytest.mark.parametrize(
    ("inputs", "words"),
    [([], "evaluation='of model '"), (["model"], "of a model that began with a download")],
)
def test_an_evaluation_without_its_origin_is_refused(evaluated, tmp_path, inputs, words):
    """Records of strangers may be whole and yet name no model, or a model of nowhere."""
    roots = {name: tmp_path / name for name in ("model", "evaluation")}
    made = {"model": {}, "evaluation": {name: roots[name] for name in inputs}}
    for name, root in roots.items():
        root.mkdir()
        shutil.copy(evaluated / "evaluation" / "results.json", root)
        artifact.record(
            {name: root}, stage="x", config=ReleaseConfig(), inputs=made[name], summary={}
        )
    outputs = {name: tmp_path / "out" / name for name in ("release", "metrics")}
    done = stage("release", {"accuracy": 0}, check=False, **roots, **outputs)
    refused(done, tmp_path / "out", words)


def test_output_file_in_use(tmp_path):
    (tmp_path / "bar").write_text("0.9")
    done = stage("preflight", check=False, release_accuracy=tmp_path / "bar")
    refused(done, tmp_path, "bar: exists")
    assert (tmp_path / "bar").read_text() == "0.9"


def test_preflight_hands_on_the_bar(tmp_path):
    release = json.dumps({"accuracy": 0.25})
    stage("preflight", download=SUMS, release=release, release_accuracy=tmp_path / "bar")
    assert json.loads((tmp_path / "bar").read_text()) == 0.25


def test_files_are_not_kept_unless_named(tmp_path):
    """A stage by hand writes what it was asked for and nothing beside it."""
    before = set(tmp_path.iterdir())
    stage("preflight", download=SUMS)
    assert set(tmp_path.iterdir()) == before
