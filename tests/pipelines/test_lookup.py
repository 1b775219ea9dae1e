"""Which model a path names: artifacts, upstream's files, runs, and what is none of these."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from components import artifact, records
from components.merge.config import MergeConfig
from model import checkpoint
from pipelines.lookup import locate
from tests.conftest import ROOT, stage


@pytest.fixture(scope="module")
def run(taught, downloaded, tmp_path_factory):
    """A run's directory as the local runner lays it out: tuned, aligned by DPO, and evaluated."""
    root = tmp_path_factory.mktemp("run")
    places = root / "artifacts" / "llada-reasoning-1"
    shutil.copytree(taught, places / "merge" / "model")
    config = {"steps": 1, "batch_size": 2, "micro_batch_size": 2, "max_length": 64}
    config["lora"] = {"rank": 2, "alpha": 4, "dropout": 0.0}
    trained = places / "dpo" / "trained"
    data = {"dataset": downloaded / "dataset"}
    stage("dpo", config, base=taught, trained=trained, metrics=places / "dpo" / "metrics", **data)
    aligned = places / "merge-2" / "model"
    figures = places / "merge-2" / "metrics"
    stage("merge", base=taught, trained=trained, model=aligned, metrics=figures)
    config = {"gen_length": 24, "block_length": 12, "threshold": 0.8, "cache": "dual", "limit": 1}
    paths = {name: places / "evaluate" / name for name in ("evaluation", "metrics")}
    stage("evaluate", config, model=aligned, **data, **paths)
    (root.parent / "latest").unlink(missing_ok=True)
    (root.parent / "latest").symlink_to(root.name)
    return root


def test_a_model_artifact(taught):
    located = locate(taught)
    assert located.path == taught and not located.sampling
    assert located.fingerprint == artifact.read(taught)["fingerprint"]


def test_a_run_is_its_aligned_model(run):
    aligned = run / "artifacts" / "llada-reasoning-1" / "merge-2" / "model"
    located = locate(run)
    assert located.path == aligned
    sampling = {"gen_length": 24, "block_length": 12, "threshold": 0.8, "cache": "dual"}
    assert located.sampling.items() >= sampling.items()
    assert locate(run.parent / "latest").fingerprint == located.fingerprint


def test_asked_as_it_was_evaluated(run, ask):
    done = ask(run.parent / "latest", "371 + 153 =")
    assert done.code == 0 and done.answer
    assert "(gen_length=24 block_length=12 cache=dual threshold=0.8)" in done.errors
    done = ask(run, "--gen-length", 16, "--factor", 1, "371 + 153 =")
    assert "(gen_length=16 block_length=12 cache=dual threshold=null factor=1.0)" in done.errors


def test_make_ask(run, ask):
    """The last run's model, asked by the Makefile, whatever quotes the question has."""
    question = """it's "1" + 1"""
    variables = [f"BIN={Path(sys.executable).parent}", f"RUNS={run.parent}", f"PROMPT={question}"]
    done = subprocess.run(
        ["make", "--no-print-directory", "--old-file=.venv/ready", "ask", *variables],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ask(run, question).output
    assert "gen_length=24" in done.stderr


def test_upstreams_files(taught, tmp_path, ask):
    """A directory without a record answers as the artifact does."""
    copy = tmp_path / "published"
    shutil.copytree(taught, copy)
    (copy / artifact.RECORD).unlink()
    located = locate(copy)
    assert located.path == copy
    options = ("--gen-length", 16, "371 + 153 =")
    assert ask(copy, *options).answer == ask(taught, *options).answer
    checkpoint.save(checkpoint.load(copy), copy)
    assert locate(copy).fingerprint != located.fingerprint


def test_a_run_that_has_not_come_to_its_aligned_model(run, tmp_path, ask):
    early = tmp_path / "early"
    shutil.copytree(run, early)
    shutil.rmtree(early / "artifacts" / "llada-reasoning-1" / "merge-2")
    ask(early, "hello").refused(
        "a run without an aligned model", "one of its models", "merge/model"
    )


def test_a_run_that_ends_with_sft(run, tmp_path, ask):
    """Its report says that it is over, and what it trained last is no adapter."""
    early = tmp_path / "early" / "artifacts" / "llada-reasoning-1"
    taught = early / "sft" / "trained"
    shutil.copytree(run / "artifacts" / "llada-reasoning-1" / "merge" / "model", taught)
    report = early / "report" / "report"
    report.mkdir(parents=True)
    artifact.record(
        {"report": report},
        stage="report",
        config=MergeConfig(),
        inputs={"sft_metrics": taught},
        summary={},
    )
    assert locate(tmp_path / "early").path == taught


def test_several_aligned_models(run, tmp_path, ask):
    both = tmp_path / "both"
    places = both / "artifacts" / "llada-reasoning-1"
    shutil.copytree(run, both)
    shutil.copytree(places / "merge-2", places / "merge-3")
    ask(both, "hello").refused("holds 2 aligned models", "merge-2/model", "merge-3/model")


def test_nothing_of_the_kind(tmp_path, downloaded, adapted, ask):
    (tmp_path / "empty").mkdir()
    allowed = ("allowed: the directory of a model artifact", "upstream's format", "a run")
    ask(tmp_path / "nowhere", "hello").refused("nowhere': no such directory", *allowed)
    ask(tmp_path / "empty", "hello").refused("empty': holds neither", *allowed)
    ask(downloaded / "dataset", "hello").refused("dataset'", *allowed)
    named = ("is an adapter", f"--adapter {adapted / 'trained'}")
    ask(adapted / "trained", "hello").refused(*named)


def test_what_a_stage_has_not_finished(taught, tmp_path, ask):
    shutil.copytree(taught, tmp_path / "model")
    (tmp_path / "model" / artifact.CLAIM).write_text("{}")
    ask(tmp_path / "model", "hello").refused("a stage has not finished it")


def test_a_tokenizer_of_another_model(taught, tmp_path, ask):
    shutil.copytree(taught, tmp_path / "model")
    (tmp_path / "model" / "tokenizer.json").unlink()
    ask(tmp_path / "model", "hello").refused("tokenizer.json: no such file")


def test_the_last_grpo_says_how(taught, tmp_path):
    """Where no evaluation is beside it, a model is asked as it was trained by GRPO."""
    shutil.copytree(taught, tmp_path / "model")
    record = artifact.read(taught)
    own = {"stage": "grpo", "output": "trained", "fingerprint": "0", "summary": {}}
    entry = {**own, "config": {"gen_length": 8, "temperature": 1.0}}
    record["lineage"].insert(-1, entry)
    (tmp_path / "model" / artifact.RECORD).write_bytes(records.dump(records.sealed(record)))
    assert locate(tmp_path / "model").sampling == entry["config"]
