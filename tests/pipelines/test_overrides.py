"""Settings of a recipe: all are applied, then checked once; through the command lines."""

import itertools
import re
import subprocess
import sys

import pytest
import yaml

from pipelines.overrides import choose
from tests.conftest import ROOT
from tests.pipelines.kfp_server import Server

TOGETHER = ("grpo.batch_size=48", "grpo.micro_batch_size=48", "grpo.minibatch=48")


def run(module, *arguments, settings=()):
    """A command line of the pipeline, which ends before anything is run or sent."""
    command = [sys.executable, "-m", f"pipelines.{module}", *arguments]
    command += [word for setting in settings for word in ("--set", setting)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def refused(done, *words):
    assert done.returncode == 2, done.stdout + done.stderr
    (line,) = done.stderr.strip().splitlines()
    for word in words:
        assert word in line


@pytest.mark.parametrize("order", list(itertools.permutations(TOGETHER)))
def test_settings_that_are_valid_only_together(order):
    grpo = choose("tiny", settings=list(order)).grpo
    assert (grpo.batch_size, grpo.micro_batch_size, grpo.minibatch) == (48, 48, 48)


def test_compiled_together(tmp_path):
    done = run("compiler", "tiny", "--output", str(tmp_path), settings=TOGETHER)
    assert done.returncode == 0, done.stderr
    pipeline, _ = yaml.safe_load_all((tmp_path / "tiny.yaml").read_text())
    given = pipeline["root"]["inputDefinitions"]["parameters"]["grpo"]["defaultValue"]
    assert [given[key] for key in ("batch_size", "micro_batch_size", "minibatch")] == [48] * 3


def test_submitted_together():
    with Server() as server:
        done = run("submit", "tiny", "--host", server.url, settings=TOGETHER)
        assert done.returncode == 0, done.stderr
        (sent,) = server.runs.values()
    assert sent["runtime_config"]["parameters"]["grpo"]["minibatch"] == 48


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["grpo.batch_size=52"], ["a divisor of batch_size=52 (with --set grpo.batch_size=52)"]),
        (["sft.steps=3", "sft.step=4"], ["unknown field sft.step ", "did you mean steps?"]),
        (["sft.lora.ranks=4"], ["unknown field sft.lora.ranks", "did you mean rank?"]),
        (["sftt.steps=4"], ["--set sftt.steps=4 (did you mean sft?)", "STAGE.FIELD=VALUE"]),
        (["sft.steps=3", "sft.steps=4"], ["--set sft.steps=4", "once", "sft.steps=3"]),
        (["grpo.judge.url=http://h"], ["grpo.judge.model is missing"]),
        (["sft.lora=5", "sft.lora.rank=3"], ["sft.lora=5", "a JSON object"]),
        (["sft.steps=1e300"], ["sft.steps=1e+300", "a whole number"]),
        (["sft.steps=" + "9" * 5000], ["sft.steps='999", "a whole number"]),
        (["sft.betas=" + "[" * 50_000], ["sft.betas='[[[", "a list of 2"]),
        (["sft.clip=Infinity"], ["sft.clip=inf", "a finite number"]),
        (["sft.clip=NaN"], ["sft.clip=nan", "a finite number"]),
        (["grpo.checkpoint_uri=gs://b"], ["grpo.checkpoint_uri='gs://b'", "s3://BUCKET/KEY"]),
        (["preference=DPO"], ["preference='DPO'", "dpo, grpo"]),
        (["preference.x=dpo"], ["--set preference.x=dpo"]),
        (["sft=3"], ["--set sft=3", "STAGE.FIELD=VALUE"]),
        (["sft..steps=3"], ["--set sft..steps=3", "STAGE.FIELD=VALUE"]),
        (["sft.steps="], ["--set sft.steps=", "STAGE.FIELD=VALUE"]),
    ],
)
def test_refusals_name_what_was_set(settings, words):
    for order in (settings, settings[::-1]):
        with pytest.raises(ValueError) as caught:
            choose("tiny", settings=order)
        message = str(caught.value)
        assert "\n" not in message and len(message) < 600
        if "once" not in words:
            assert all(word in message for word in words), message


@pytest.mark.parametrize("module", ["compiler", "local", "submit"])
def test_refused_at_every_command_line(tmp_path, module):
    where = {
        "compiler": ["tiny", "--output", str(tmp_path)],
        "local": ["--runs", str(tmp_path)],
        "submit": ["tiny", "--host", "http://127.0.0.1:1"],
    }[module]
    done = run(module, *where, settings=TOGETHER[1:])
    refused(done, "grpo.micro_batch_size=48", "a divisor of batch_size=")
    refused(run(module, *where, settings=["preference=DPO"]), "preference='DPO'", "dpo, grpo")
    assert not list(tmp_path.iterdir())


def test_a_part_goes_into_a_whole_in_any_order():
    settings = ["grpo.judge.weight=2", "grpo.judge.model=m", "grpo.judge.url=http://h/v1"]
    judge = choose("tiny", settings=settings).grpo.judge
    assert (judge.weight, judge.model, judge.url, judge.retries) == (2.0, "m", "http://h/v1", 3)
    whole = ["sft.lora.rank=8", 'sft.lora={"rank": 4, "alpha": 2}']
    for order in (whole, whole[::-1]):
        lora = choose("tiny", settings=order).sft.lora
        assert (lora.rank, lora.alpha) == (8, 2.0)


def test_the_preference_is_a_setting_too(tmp_path):
    done = run("compiler", "tiny", "--output", str(tmp_path), settings=["preference=dpo"])
    assert done.returncode == 0, done.stderr
    assert re.search(r"preference:\n\s+defaultValue: dpo", (tmp_path / "tiny.yaml").read_text())


def test_make_hands_settings_on_as_they_are(tmp_path):
    """Quotes, brackets and stars reach the command."""
    given = 'sft.lora={"rank":4} report.title=a*b'
    command = ["make", "--dry-run", "pipeline-compile", f"SET={given}", "BIN=."]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert """--set 'sft.lora={"rank":4}' --set 'report.title=a*b'""" in done.stdout


@pytest.mark.parametrize("order", [1, -1])
def test_a_preset_replaces_the_recipes_values_and_a_setting_replaces_the_presets(order):
    preset = "evaluate.preset=llada-base-gsm8k-512"
    recipe = choose("llada_8b", settings=[preset, "evaluate.batch_size=4"][::order])
    evaluate = recipe.evaluate
    assert (evaluate.tasks, evaluate.gen_length, evaluate.form) == (("gsm8k",), 512, "text")
    assert evaluate.batch_size == 4
    assert recipe.evaluate_base == choose("llada_8b", settings=[]).evaluate_base
    shorter = ["evaluate.gen_length=64", "evaluate.block_length=64", "evaluate.steps=64", preset]
    evaluate = choose("llada_8b", settings=shorter[::order]).evaluate
    assert (evaluate.gen_length, evaluate.tasks) == (64, ("gsm8k",))
