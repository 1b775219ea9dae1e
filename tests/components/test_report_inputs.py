"""The report takes the metrics and evaluations of one run, each in its place."""

import json
import shutil

import pytest

from components import artifact
from components.merge.config import MergeConfig
from tests.conftest import stage

SCORE = {"score": 0.5, "problems": 2, "standard_error": 0.1, "metric": "accuracy"}
ASKED = {"accuracy": 0.5, "correct": 1, "problems": 2, "standard_error": 0.1}
ASKED |= {"tokens_per_second": 9.0, "forward_passes_per_answer": 8.0, "too_long": 0, "unusable": 0}
ASKED |= {"task": "test", "tasks": {"test": SCORE}}
FIGURES = {"steps": 1, "loss": 0.5, "parameters": 7}


def make(root, name, stage_name, output, inputs, files, **summary):
    """One output of a stage; what it holds is what the report reads."""
    path = root / name
    path.mkdir(parents=True)
    for file, content in files.items():
        (path / file).write_text(content)
    artifact.record(
        {output: path},
        stage=stage_name,
        config=MergeConfig(),
        inputs={role: root / given for role, given in inputs.items()},
        summary={**FIGURES, "accuracy": None, "tokens_per_second": 1.0, **summary},
    )


@pytest.fixture
def run(tmp_path):
    """The records of a whole run by hand, and of one that stopped after SFT, in `other`."""
    line = {artifact.METRICS: json.dumps({"step": 1, "loss": 0.5}) + "\n"}
    results = {"results.json": json.dumps(ASKED), "traces.jsonl": ""}
    for root, seed in ((tmp_path / "run", 0), (tmp_path / "other", 1)):
        make(root, "dataset", "download", "dataset", {}, {"rows": f"{seed}"}, seed=seed)
        before = {"dataset": "dataset"}
        for name in ("pretrain", "sft", "grpo"):
            outputs = train(root, name, before, line, seed)
            before = {"dataset": "dataset", "base": outputs}
            make(
                root,
                f"{name}-evaluation",
                "evaluate",
                "evaluation",
                {"model": outputs, "dataset": "dataset"},
                results,
                seed=seed,
            )
    return tmp_path


def train(root, name, inputs, line, seed):
    """Both outputs of a training stage."""
    for output in ("trained", "metrics"):
        path = root / f"{name}-{output}"
        path.mkdir(parents=True)
        (path / artifact.METRICS).write_text(line[artifact.METRICS])
    artifact.record(
        {output: root / f"{name}-{output}" for output in ("trained", "metrics")},
        stage=name,
        config=MergeConfig(),
        inputs={role: root / given for role, given in inputs.items()},
        summary={**FIGURES, "accuracy": None, "tokens_per_second": 1.0, "seed": seed},
    )
    return f"{name}-trained"


def report(root, **changes):
    run = root / "run"
    paths = {
        "pretrain_metrics": run / "pretrain-metrics",
        "sft_metrics": run / "sft-metrics",
        "preference_metrics": run / "grpo-metrics",
        "base_evaluation": run / "pretrain-evaluation",
        "sft_evaluation": run / "sft-evaluation",
        "aligned_evaluation": run / "grpo-evaluation",
    }
    outputs = {name: root / "out" / name for name in ("report", "metrics", "page", "summary")}
    given = {**paths, **{role: path and root / path for role, path in changes.items()}}
    given = {role: path for role, path in given.items() if path is not None} | outputs
    return stage("report", check=False, **given)


def test_a_whole_run(run):
    done = report(run)
    assert done.returncode == 0, done.stderr
    found = json.loads((run / "out" / "report" / "report.json").read_text())
    assert list(found["stages"]) == ["download", "pretrain", "sft", "grpo"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"aligned_evaluation": "other/grpo-evaluation"}, "aligned_evaluation='"),
        ({"base_evaluation": "other/pretrain-evaluation"}, "base_evaluation='"),
        ({"aligned_evaluation": "run/sft-evaluation"}, "aligned_evaluation='"),
        ({"base_evaluation": "run/grpo-evaluation"}, "base_evaluation='"),
        ({"preference_metrics": "other/grpo-metrics"}, "aligned_evaluation='"),
        ({"preference_metrics": "run/sft-metrics"}, "preference_metrics='"),
        ({"sft_metrics": "run/sft-trained"}, "sft_metrics='"),
        ({"sft_evaluation": "run/dataset"}, "sft_evaluation='"),
    ],
)
def test_what_is_of_another_run_is_named(run, changes, words):
    done = report(run, **changes)
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("components.report: error: ") and words in line
    assert next(iter(changes.values())).split("/")[1] in line or "evaluation" in words
    assert not list((run / "out").rglob(artifact.RECORD))


@pytest.mark.parametrize(
    ("off", "stages"),
    [
        (("preference_metrics", "aligned_evaluation"), ["download", "pretrain", "sft"]),
        (
            ("preference_metrics", "aligned_evaluation", "sft_metrics", "sft_evaluation"),
            ["download", "pretrain"],
        ),
    ],
)
def test_stages_that_are_off(run, off, stages):
    done = report(run, **dict.fromkeys(off))
    assert done.returncode == 0, done.stderr
    content = json.loads((run / "out" / "report" / "report.json").read_text())
    assert list(content["stages"]) == stages
    assert content["stages"]["pretrain"]["accuracy"] == 0.5
    is_single = len(content["evaluations"]) == 1
    assert content["verdict"].startswith("one evaluation") == is_single
    assert (run / "out" / "report" / "report.html").read_text().count("loss</h3>") == len(
        stages
    ) - 1


@pytest.mark.parametrize("off", ["sft_metrics", "sft_evaluation", "aligned_evaluation"])
def test_metrics_and_evaluation_come_together(run, off):
    done = report(run, **{off: None})
    assert done.returncode == 2
    assert f"{off} is missing, allowed: both " in done.stderr


def test_a_stage_that_was_not_off(run):
    """The model of the last evaluation has had SFT, whose figures are left out."""
    done = report(run, sft_metrics=None, sft_evaluation=None)
    assert done.returncode == 2
    assert "behind pretrain_metrics and preference_metrics alone" in done.stderr


def test_evaluations_on_other_problems_are_refused(run):
    """Accuracies of different test sets do not rise or fall."""
    path = run / "run" / "grpo-evaluation"
    shutil.rmtree(path)
    results = {"results.json": json.dumps(ASKED), "traces.jsonl": ""}
    inputs = {"model": "grpo-trained", "dataset": "../other/dataset"}
    make(run / "run", "grpo-evaluation", "evaluate", "evaluation", inputs, results)
    done = report(run)
    assert done.returncode == 2 and "of one dataset" in done.stderr


def test_an_evaluation_of_no_dataset_is_refused(run):
    """Its record is whole, and of a stage that was given other inputs."""
    path = run / "run" / "grpo-evaluation"
    shutil.rmtree(path)
    results = {"results.json": json.dumps(ASKED), "traces.jsonl": ""}
    make(run / "run", path.name, "evaluate", "evaluation", {"model": "grpo-trained"}, results)
    done = report(run)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "aligned_evaluation='" in line and "allowed: an evaluation that records" in line


def test_evaluations_that_begin_with_another_task_are_refused(run):
    """The verdict is about one task: the first of all three."""
    path = run / "run" / "grpo-evaluation"
    shutil.rmtree(path)
    other = ASKED | {"task": "sums", "tasks": {"sums": ASKED["tasks"]["test"], **ASKED["tasks"]}}
    results = {"results.json": json.dumps(other), "traces.jsonl": ""}
    inputs = {"model": "grpo-trained", "dataset": "dataset"}
    make(run / "run", "grpo-evaluation", "evaluate", "evaluation", inputs, results)
    done = report(run)
    assert done.returncode == 2
    assert "evaluations='of sums, test first', allowed: of one task" in done.stderr
