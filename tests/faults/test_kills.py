"""kill -9 at twenty random moments of each stage that writes: the same command completes.

The result is that of a run left alone, nothing incomplete has a record, and nothing is left over.
"""

import pytest

from components import storage
from tests.components.conftest import point_at
from tests.components.corpora import prose, write_jsonl
from tests.components.test_report_inputs import run
from tests.faults.attempts import Attempts

__all__ = ["run"]
TRAINED = ("trained", "metrics")
SMALL = {"steps": 6, "batch_size": 4, "micro_batch_size": 2, "max_length": 64, "examples": 50}
ASKED = {"gen_length": 8, "block_length": 8, "limit": 12, "batch_size": 4, "traces": 1}


def compare(attempts, output, calm, seed, **options):
    """The attempts survive, and the output is that of `alone`."""
    attempts.survive(calm, seed, **options)
    assert attempts.files("out", output) == attempts.files("alone", output)


def test_merge(tmp_path, downloaded, adapted):
    inputs = {"base": downloaded / "model", "trained": adapted / "trained"}
    attempts = Attempts(tmp_path, "merge", None, inputs, ("model", "metrics"))
    attempts.complete("alone")
    compare(attempts, "model", attempts.complete("again"), seed=1)


def test_evaluate(tmp_path, downloaded):
    inputs = {"model": downloaded / "model", "dataset": downloaded / "dataset"}
    attempts = Attempts(tmp_path, "evaluate", ASKED, inputs, ("evaluation", "metrics"))
    attempts.complete("alone")
    attempts.survive(attempts.complete("again"), seed=2)
    samples = [attempts.files(place, "evaluation")["samples.jsonl"] for place in ("out", "alone")]
    assert samples[0] == samples[1]


def test_report(tmp_path, run):
    names = ("pretrain", "sft", "grpo")
    roles = ("pretrain_metrics", "sft_metrics", "preference_metrics")
    inputs = {role: run / "run" / f"{n}-metrics" for role, n in zip(roles, names, strict=True)}
    roles = ("base_evaluation", "sft_evaluation", "aligned_evaluation")
    inputs |= {role: run / "run" / f"{n}-evaluation" for role, n in zip(roles, names, strict=True)}
    attempts = Attempts(tmp_path / "stage", "report", None, inputs, ("report", "metrics"))
    attempts.complete("alone")
    compare(attempts, "report", attempts.complete("again"), seed=3)


@pytest.fixture
def training(tmp_path, downloaded):
    """SFT that saves its state after every step, to a place that is given."""

    def make(place, **options):
        inputs = {"base": downloaded / "model", "dataset": downloaded / "dataset"}
        config = {**SMALL, "checkpoint_uri": place, "checkpoint_steps": 1}
        return Attempts(tmp_path, "sft", config, inputs, TRAINED, **options)

    return make


def test_save(training, tmp_path):
    place = str(tmp_path / "kept")
    attempts = training(place, store=lambda: storage.delete(place))
    compare(attempts, "trained", alone(attempts), seed=4)
    (folder,) = (tmp_path / "kept").iterdir()
    assert sorted(path.name for path in folder.iterdir()) == ["step-00000005", "step-00000006"]


def test_upload(training, nanio, monkeypatch):
    point_at(nanio, monkeypatch)
    place = "s3://bucket/killed-uploads"
    attempts = training(place, store=lambda: storage.delete(place))
    compare(attempts, "trained", alone(attempts), seed=5)
    left = nanio.client().list_multipart_uploads(Bucket="bucket", Prefix="killed-uploads")
    assert not left.get("Uploads")
    folders = {name.split("/")[1] for name in storage.list_files(place)}
    assert folders == {"step-00000005", "step-00000006"}
    writers = {tuple(name.split("/")[1:3]) for name in storage.list_files(place)}
    assert len(writers) == 4  # of each step one writer's folder, and the manifest


def alone(attempts):
    """A run without checkpoints; returns the seconds of a run with them."""
    config = {name: v for name, v in attempts.config.items() if not name.startswith("checkpoint")}
    attempts.complete("alone", config)
    calm = attempts.complete()
    attempts.begin_anew()
    return calm


def test_download(tmp_path, base, nanio, monkeypatch):
    """A model from object storage, and a corpus."""
    point_at(nanio, monkeypatch)
    for file in sorted(base.iterdir()):
        storage.put_file(file, f"s3://bucket/killed-download/{file.name}")
    text = write_jsonl(tmp_path / "prose.jsonl", [{"text": prose(60, seed)} for seed in range(20)])
    config = {"model": "s3://bucket/killed-download", "pretrain": [{"location": text}]}
    config["sample"] = {"min_tokens": 1, "long_share": 0}
    outputs = ("model", "dataset", "metrics")
    attempts = Attempts(tmp_path / "stage", "download", config, {}, outputs)
    attempts.complete("alone")
    compare(attempts, "model", attempts.complete("again"), seed=6)
    assert attempts.files("out", "dataset") == attempts.files("alone", "dataset")
