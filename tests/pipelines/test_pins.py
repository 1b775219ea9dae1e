"""Commits of what a run takes from the Hub: through the command lines, against a stand-in of it."""

import json
import os
import subprocess
import sys

import pytest
import yaml

from components.data import catalogue
from pipelines import compiler, pins
from pipelines.overrides import choose
from tests.components.storage.hub_server import COMMIT, Hub
from tests.conftest import ROOT
from tests.pipelines.kfp_server import Server

PLACE = "hf://datasets/owner/corpus"
NOWHERE = "http://127.0.0.1:1"
HELD = {"model": {"config.json": b"{}"}, "corpus": {"a.jsonl": b""}}
SETTING = 'download.sft=[{"location":"hf://datasets/owner/corpus@COMMIT/a.jsonl"}]'
CORPUS = f'download.sft=[{{"location":"{PLACE}/a.jsonl"}}]'


def command_line(module, *arguments, hub=NOWHERE, **environment):
    """A program of the pipeline, in a process of its own: the Hub's client reads settings once."""
    command = [sys.executable, "-m", f"pipelines.{module}", *arguments]
    environment = {**os.environ, "HF_ENDPOINT": hub, "HF_TOKEN": "secret", **environment}
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


def submit(server, *settings, hub=NOWHERE, options=()):
    flags = [f"--set={setting}" for setting in settings]
    return command_line("submit", "tiny", "--host", server.url, *flags, *options, hub=hub)


def refused(done, *words):
    assert done.returncode == 2, done.stdout + done.stderr
    (line,) = done.stderr.strip().splitlines()
    for word in words:
        assert word in line


def test_submit_puts_the_commits_into_the_run_and_prints_them():
    with Hub(**HELD) as hub, Server() as server:
        done = submit(server, "download.model=owner/model", CORPUS, hub=hub.url)
        asked = [path for path in hub.asked if path.startswith(("/api/models", "/api/datasets"))]
        (run,) = server.runs.values()
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[:2] == [
        f"pinned: owner/model@{COMMIT}",
        f"pinned: owner/corpus@{COMMIT}",
    ]
    sent = run["runtime_config"]["parameters"]["download"]
    assert sent["revision"] == COMMIT
    assert [source["location"] for source in sent["sft"]] == [f"{PLACE}@{COMMIT}/a.jsonl"]
    assert len(asked) == 2 and "Bearer secret" in hub.tokens


def test_without_a_network_one_line_says_how_to_pin():
    with Server() as server:
        refused(
            submit(server, "download.model=owner/model"),
            *("submit: error: model 'owner/model'", "--set download.revision=COMMIT", "--no-pins"),
        )
        assert not server.runs
        done = submit(server, "download.model=owner/model", options=["--no-pins"])
        assert done.returncode == 0 and "pinned" not in done.stdout
        assert len(server.runs) == 1


def test_a_local_run_pins_before_anything_is_written(tmp_path):
    runs = ["--runs", str(tmp_path / "runs")]
    with Hub(**HELD) as hub:
        done = command_line("local", *runs, "--set=download.model=owner/none", hub=hub.url)
        refused(done, "pipeline: error: model 'owner/none'", "404")
        refused(command_line("local", *runs, f"--set={CORPUS}"), "'owner/corpus'", SETTING)
        assert not (tmp_path / "runs").exists()
        settings = ["download.model=owner/model", "pretrain.context=4096", "sft.max_length=5000"]
        flags = [f"--set={setting}" for setting in settings]  # the last ends the first stage
        done = command_line("local", *runs, *flags, hub=hub.url)
    assert done.returncode == 2 and "sft.max_length=5000" in done.stderr
    assert done.stdout.startswith(f"pinned: owner/model@{COMMIT}\n")


def test_a_compiled_file_without_commits_says_so(tmp_path):
    settings = ["download.model=owner/model", CORPUS]
    flags = [f"--set={setting}" for setting in settings]
    done = command_line("compiler", "tiny", "--output", str(tmp_path), *flags)
    assert done.returncode == 0, done.stderr
    for page in (description(tmp_path / "tiny.yaml"), done.stdout):
        assert "Without commits" in page and "that day" in page
        assert "owner/model, owner/corpus" in page
    recipe = choose("tiny", settings=[settings[0], f"download.revision={COMMIT}"])
    compiler.write(recipe, tmp_path / "pinned.yaml", profile="small")
    assert "Without commits" not in description(tmp_path / "pinned.yaml")


def description(file):
    pipeline, _ = yaml.safe_load_all(file.read_text())
    return pipeline["pipelineInfo"]["description"]


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("hf://datasets/o/n/a/*.jsonl", "hf://datasets/o/n@{}/a/*.jsonl"),
        ("hf://datasets/o/n@main/a/**", "hf://datasets/o/n@{}/a/**"),
        ("hf://datasets/o/n@refs/convert/parquet/x", "hf://datasets/o/n@{}/x"),
        ("hf://datasets/o/n@refs%2Fpr%2F1/x", "hf://datasets/o/n@{}/x"),
        ("hf://o/n/rows.jsonl", "hf://o/n@{}/rows.jsonl"),
        ("hf://datasets/o/n", "hf://datasets/o/n@{}"),
        (f"hf://datasets/o/n@{COMMIT}/x", f"hf://datasets/o/n@{COMMIT}/x"),
        ("s3://bucket/key@main/x", "s3://bucket/key@main/x"),
        ("/data/o/n@main/x", "/data/o/n@main/x"),
    ],
)
def test_locations(location, expected):
    recipe = choose("tiny", settings=[f"download.problems={json.dumps([{'location': location}])}"])
    other = "f" * 40
    (source,) = pins.pinned(recipe, lambda repository: other).download.problems
    assert source.location == expected.format(other)


def test_branches_are_asked_about_by_their_names():
    sources = [{"location": f"hf://datasets/o/n@{name}/x"} for name in ("main", "refs%2Fpr%2F1")]
    settings = [f"download.sft={json.dumps(sources)}", "download.dataset=owner/rows"]
    found = pins.unpinned(choose("tiny", settings=settings))
    assert [each[:3] for each in found] == [
        ("dataset", "owner/rows", None),
        ("dataset", "o/n", "main"),
        ("dataset", "o/n", "refs/pr/1"),
    ]
    assert pins.described(found) == "owner/rows, o/n@main, o/n@refs/pr/1"


def test_data_sets_by_name():
    """The catalogue's own, those of the recipe, and those that are made here."""
    own = '{"mine":{"kind":"text","repository":"owner/mine","splits":{"train":"*"},"text":"t"}}'
    names = ["dapo-math-17k", "gsm8k", "countdown"]
    settings = [
        f"download.catalogue={own}",
        'download.pretrain=[{"name":"mine"}]',
        f"download.problems={json.dumps([{'name': name} for name in names])}",
        f'download.test=[{{"name":"gsm8k","revision":"{COMMIT}"}}]',
    ]
    recipe = choose("tiny", settings=settings)
    assert pins.described(pins.unpinned(recipe)) == "owner/mine, open-r1/DAPO-Math-17k-Processed"
    assert '[{"name":"mine","revision":"COMMIT"}]' in pins.unpinned(recipe)[0].setting
    other = "f" * 40
    download = pins.pinned(recipe, lambda repository: other).download
    assert [source.revision for source in download.pretrain] == [other]
    known = catalogue.find("gsm8k").commit  # the catalogue's own
    assert [source.revision for source in download.problems] == [other, known, None]
    assert [source.revision for source in download.test] == [COMMIT]


@pytest.mark.parametrize("name", ["new", "/models/mine", "./mine", "s3://bucket/model", "."])
def test_models_that_are_on_no_hub(name):
    assert pins.unpinned(choose("tiny", settings=[f"download.model={name}"])) == []
