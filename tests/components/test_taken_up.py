"""The same command again, after its stage was stopped or killed at any moment, ends well.

Only what the same stage left is removed: whatever else is in an output stays, and is named.
"""

import importlib
import json
import os
import signal
import subprocess
import sys
import time
import typing

import pytest

from components import artifact, atomic
from components.outputs import WRITTEN
from tests.components.forked import finish, start, wait_for_steps
from tests.conftest import ROOT, stage

STEPS = {"steps": 2, "batch_size": 4, "micro_batch_size": 2}
SMALL = {**STEPS, "max_length": 64, "examples": 50}
LONG = {**SMALL, "steps": 60}
ROLLOUTS = {
    "batch_size": 4,
    "micro_batch_size": 4,
    "minibatch": 4,
    "group": 2,
    "reward_workers": 1,
}
GRPO = {**ROLLOUTS, "steps": 1, "gen_length": 8, "block_length": 8}
PAIRS = {"steps": 1, "batch_size": 4, "micro_batch_size": 2, "max_length": 64, "draws": 1}
TINY = {"d_model": 8, "n_layers": 1, "n_heads": 1, "mlp_hidden_size": 8}
ASKED = {"gen_length": 8, "block_length": 8, "limit": 2, "traces": 1}


def die(number):
    """Ends the process itself when it writes its record for the `number`th time."""
    settle = atomic._settle
    count = 0

    def settle_or_die(draft, path, new):
        nonlocal count
        count += path.name == artifact.RECORD
        if count == number:
            os.kill(os.getpid(), signal.SIGKILL)
        settle(draft, path, new)

    atomic._settle = settle_or_die


def die_at_first_record():
    die(1)


def die_at_second_record():
    die(2)


@pytest.fixture
def commands(downloaded, adapted, tmp_path):
    """Configuration, inputs and outputs of every stage that takes a while."""
    base, dataset = downloaded / "model", downloaded / "dataset"
    opened = {"base": base, "dataset": dataset}
    trained = ("trained", "metrics")
    answers = ("evaluation", "metrics", "page", "summary", "accuracy")
    found = {
        "download": (
            {"model": "new", "made": "sums", "shape": TINY},
            {},
            ("model", "dataset", "metrics"),
        ),
        "pretrain": ({**STEPS, "window": 32}, opened, trained),
        "sft": (SMALL, opened, trained),
        "dpo": (PAIRS, opened, trained),
        "grpo": (GRPO, opened, trained),
        "merge": (None, {"base": base, "trained": adapted / "trained"}, ("model", "metrics")),
        "evaluate": (ASKED, {"model": base, "dataset": dataset}, answers),
    }

    def command(name):
        config, inputs, outputs = found[name]
        return config, {**inputs, **{output: tmp_path / "out" / output for output in outputs}}

    return command


def files(root):
    """Every file below a directory, with its bytes."""
    names = sorted(file for file in root.rglob("*") if file.is_file())
    return {file.relative_to(root): file.read_bytes() for file in names}


STAGES = ("download", "pretrain", "sft", "dpo", "grpo", "merge", "evaluate")


@pytest.mark.parametrize(
    ("name", "patch"),
    [
        *((name, die_at_first_record) for name in STAGES),
        ("sft", die_at_second_record),
        ("evaluate", die_at_second_record),
    ],
)
def test_killed_before_its_records(commands, tmp_path, name, patch):
    """All is written but a record, so all that a stage can leave behind is there."""
    config, paths = commands(name)
    killed = start(name, config, output=tmp_path / "text", patch=patch, **paths)
    finish(killed, tmp_path / "text", code=-signal.SIGKILL)
    left = tmp_path / "out" / "metrics"
    assert (left / artifact.CLAIM).exists() and not (left / artifact.RECORD).exists()
    stage(name, config, **paths)
    for path in (tmp_path / "out").iterdir():
        if path.is_dir():
            artifact.verify(path)
            assert not (path / artifact.CLAIM).exists()
    again = stage(name, config, check=False, **paths)
    assert again.returncode == 2 and "not empty" in again.stderr


def test_a_release_is_taken_up_again(downloaded, tmp_path):
    """Its card is its own, unlike a README.md in any other output."""
    paths = {"model": downloaded / "model", "dataset": downloaded / "dataset"}
    made = {name: tmp_path / name for name in ("evaluation", "metrics")}
    stage("evaluate", ASKED, **paths, **made)
    paths = {"model": downloaded / "model", "evaluation": made["evaluation"]}
    paths |= {name: tmp_path / "out" / name for name in ("release", "metrics")}
    config, text = {"accuracy": 0.0}, tmp_path / "text"
    killed = start("release", config, output=text, patch=die_at_first_record, **paths)
    finish(killed, text, code=-signal.SIGKILL)
    assert (paths["release"] / "README.md").exists()
    stage("release", config, **paths)
    artifact.verify(paths["release"])


@pytest.mark.parametrize(
    ("number", "kept"),
    [
        (signal.SIGTERM, True),
        (signal.SIGTERM, False),
        (signal.SIGINT, False),
        (signal.SIGHUP, False),
        (signal.SIGKILL, True),
    ],
)
def test_stopped_while_it_trains(downloaded, tmp_path, number, kept):
    """With checkpoints a stage that was told to stop goes on, without it begins anew."""
    paths = {"base": downloaded / "model", "dataset": downloaded / "dataset"}
    paths |= {name: tmp_path / "out" / name for name in ("trained", "metrics")}
    config = {**LONG, "checkpoint_uri": str(tmp_path / "kept"), "checkpoint_steps": 5}
    if not kept:
        config = LONG
    text = tmp_path / "text"
    process = start("sft", config, output=text, **paths)
    wait_for_steps(process, paths["metrics"], 12)
    os.kill(process.pid, number)
    said = finish(process, text, -number if number == signal.SIGKILL else 128 + number)
    assert "Traceback" not in said
    assert number == signal.SIGKILL or len([x for x in said.splitlines() if "stopped: " in x]) == 1
    done = stage("sft", config, **paths)
    assert ("goes on from step" in done.stdout) == kept
    lines = (paths["metrics"] / artifact.METRICS).read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, 61))
    artifact.verify(paths["trained"])


def test_two_at_once(downloaded, tmp_path):
    """A second start does not touch what the first is writing."""
    paths = {"base": downloaded / "model", "dataset": downloaded / "dataset"}
    paths |= {name: tmp_path / "out" / name for name in ("trained", "metrics")}
    process = start("sft", LONG, output=tmp_path / "text", **paths)
    wait_for_steps(process, paths["metrics"], 2)
    second = stage("sft", LONG, check=False, **paths)
    assert second.returncode == 2
    assert "another process is writing it" in second.stderr
    finish(process, tmp_path / "text")
    artifact.verify(paths["trained"])


def leave(path, **changes):
    """An output that a stage left unfinished."""
    path.mkdir(parents=True)
    claim = {"stage": "components.sft", "output": path.name, "files": []} | changes
    (path / artifact.CLAIM).write_text(json.dumps(claim))
    (path / "config.json").write_text("{}")


@pytest.mark.parametrize(
    ("claim", "more", "words"),
    [
        ({"stage": "components.dpo"}, None, "trained: not empty"),
        ({"output": "metrics"}, None, "trained: not empty"),
        ({}, "notes.txt", "notes.txt is no left-over of components.sft"),
        ({}, "notes.json", "notes.json is no left-over of components.sft"),
        ({}, "README.md", "README.md is no left-over of components.sft"),
        ({}, "metrics.jsonl", "metrics.jsonl is no left-over of components.sft"),
        ({}, "model-best.safetensors", "no left-over"),
        ({}, ".draft", "no left-over"),
        ({}, ".git/config.json", "no left-over"),
        ({}, "mine/config.json", "no left-over"),
        ({}, "mine/notes", "no left-over"),
    ],
)
def test_what_is_not_its_own_is_refused_and_stays(downloaded, tmp_path, claim, more, words):
    paths = {"base": downloaded / "model", "dataset": downloaded / "dataset"}
    paths |= {name: tmp_path / "out" / name for name in ("trained", "metrics")}
    leave(paths["trained"], **claim)
    if more is not None:
        (paths["trained"] / more).parent.mkdir(exist_ok=True)
        (paths["trained"] / more).write_text("precious")
    before = files(tmp_path)
    done = stage("sft", SMALL, check=False, **paths)
    assert done.returncode == 2 and words in done.stderr and "Traceback" not in done.stderr
    assert files(tmp_path) == before


def test_a_link_is_not_followed(downloaded, tmp_path):
    """What a person linked into an unfinished output is not emptied."""
    paths = {"base": downloaded / "model", "dataset": downloaded / "dataset"}
    paths |= {name: tmp_path / "out" / name for name in ("trained", "metrics")}
    leave(paths["trained"])
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "config.json").write_text("precious")
    (paths["trained"] / "linked").symlink_to(tmp_path / "elsewhere")
    done = stage("sft", SMALL, check=False, **paths)
    assert done.returncode == 2 and "linked is no left-over" in done.stderr
    assert (tmp_path / "elsewhere" / "config.json").read_text() == "precious"


def test_a_card_that_a_person_wrote_meanwhile_stays(downloaded, tmp_path):
    paths = {"base": downloaded / "model", "dataset": downloaded / "dataset"}
    paths |= {name: tmp_path / "out" / name for name in ("trained", "metrics")}
    process = start("sft", LONG, output=tmp_path / "text", **paths)
    wait_for_steps(process, paths["metrics"], 2)
    (paths["trained"] / "README.md").write_text("precious")
    finish(process, tmp_path / "text")
    assert (paths["trained"] / "README.md").read_text() == "precious"
    assert not list(paths["trained"].glob(".draft*"))


def test_every_output_has_names():
    """What is not known as a stage's own is refused, so that no output may be forgotten."""
    for name in sorted(path.parent.name for path in (ROOT / "components").glob("*/stage.py")):
        run = importlib.import_module(f"components.{name}.stage").run
        hints = typing.get_type_hints(run, include_extras=True)
        for output in (each for each, hint in hints.items() if hint == artifact.Output):
            assert output in WRITTEN, f"{output} of {name}"


@pytest.mark.parametrize("metrics", ["trained", "trained/metrics"])
def test_outputs_are_directories_of_their_own(downloaded, tmp_path, metrics):
    paths = {"base": downloaded / "model", "dataset": downloaded / "dataset"}
    paths |= {"trained": tmp_path / "trained", "metrics": tmp_path / metrics}
    done = stage("sft", SMALL, check=False, **paths)
    assert done.returncode == 2 and "a directory of its own" in done.stderr
    assert not list(tmp_path.iterdir())


def test_no_output_goes_into_an_input(downloaded, tmp_path):
    paths = {"base": downloaded / "model", "dataset": downloaded / "dataset"}
    paths |= {"trained": downloaded / "model" / "trained", "metrics": tmp_path / "metrics"}
    done = stage("sft", SMALL, check=False, **paths)
    assert done.returncode == 2 and "a directory of its own" in done.stderr
    artifact.verify(downloaded / "model")


@pytest.mark.parametrize(
    ("number", "delay"),
    [(signal.SIGINT, 0.0), (signal.SIGINT, 1.0), (signal.SIGTERM, 0.0), (signal.SIGHUP, 0.0)],
)
def test_interrupted_while_it_starts(downloaded, tmp_path, number, delay):
    """A signal at any moment of `python -m`, the imports too, is one line and no traceback."""
    command = [sys.executable, "-c", "import components.cli, runpy; print('up', flush=True); "]
    command[-1] += "runpy.run_module('components.sft', run_name='__main__', alter_sys=True)"
    command += ["--base", str(downloaded / "model"), "--dataset", str(downloaded / "dataset")]
    command += ["--config", json.dumps({**LONG, "steps": 5000})]
    command += [f"--{name}={tmp_path / name}" for name in ("trained", "metrics")]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "up\n"
        time.sleep(0.1 + delay)
        process.send_signal(number)
        errors = process.communicate()[1]
    assert process.returncode == 128 + number, errors
    assert "Traceback" not in errors and f"stopped: by {number.name}" in errors
