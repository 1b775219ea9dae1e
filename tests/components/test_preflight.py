"""What preflight passes and what it refuses, through its command line."""

import importlib.util
import json
import subprocess
import sys

import pytest

from pipelines.form import arguments
from pipelines.recipes import RECIPES
from tests.components.test_bad_input import refused
from tests.conftest import ROOT, stage

# A context of 128 and lengths within it, whatever the tiny recipe has.
SMALL = {
    "download": {"model": "new", "made": "sums", "shape": {"context": 128}},
    "pretrain": {"window": 64},
    "sft": {"max_length": 64, "steps": 100, "warmup_steps": 50},
    "dpo": {"max_length": 64},
    "grpo": {"gen_length": 24, "block_length": 8, "steps": 10, "batch_size": 16}
    | {"micro_batch_size": 4, "minibatch": 4, "inner_updates": 3, "warmup_steps": 120},
    "evaluate": {"gen_length": 24, "block_length": 8},
}


def preflight(*, recipe="tiny", preference=None, **changes):
    """The stage on a recipe's values, with some fields of some stages changed."""
    chosen = RECIPES[recipe]()
    given = arguments(chosen)
    del given["preference"]
    for name, fields in [
        *(SMALL.items() if changes and recipe == "tiny" else ()),
        *changes.items(),
    ]:
        given[name] = fields and {**given[name], **fields}
    word = {} if preference is None else {"preference": preference}
    texts = {name: json.dumps(values) for name, values in given.items()}
    off = dict.fromkeys(chosen.off, "null")
    return stage("preflight", check=False, **{**off, **texts, **word})


def in_a_pod(monkeypatch, **limits):
    """As the pipeline's pod: memory in GiB, number of GPUs and their memory, of each stage."""
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    every = dict.fromkeys(("pretrain", "sft", "dpo", "grpo", "evaluate"), (96, 1, 80))
    pods = {name: (m << 30, n, g << 30) for name, (m, n, g) in {**every, **limits}.items()}
    monkeypatch.setenv("PLACEMENT", json.dumps(pods))


def test_a_stage_that_its_pod_cannot_hold(tmp_path, monkeypatch):
    in_a_pod(monkeypatch)
    assert preflight(recipe="llada_8b").returncode == 0
    in_a_pod(monkeypatch, sft=(96, 1, 16), grpo=(4, 0, 0))
    done = preflight(recipe="llada_8b")
    refused(done, tmp_path, "sft needs 18.1 GiB of memory (weights 14.9,", "up to 15.2, a GPU of")
    assert "grpo needs" in done.stderr and "up to 3.0, the pod of" in done.stderr
    assert "pretrain needs" not in done.stderr
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST")  # the local runners place nothing
    assert preflight(recipe="llada_8b").returncode == 0


def test_a_claim_that_the_namespace_lacks(serve, tmp_path, monkeypatch):
    server = serve()
    monkeypatch.setenv("CLAIMS", "model-cache training")
    server.claims = {"training", "model-cache"}
    assert preflight(recipe="llada_8b").stdout == "preflight: every configuration is valid\n"
    server.claims = {"model-cache"}
    words = "claim training: namespace llada has no such", "download.mirror='/training/models'"
    refused(preflight(recipe="llada_8b"), tmp_path, *words)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "absent"))
    done = preflight(recipe="llada_8b")
    assert done.returncode == 0 and "claims were not looked up: no cluster" in done.stdout


def test_a_batch_that_the_processes_of_a_stage_cannot_share_out(tmp_path, monkeypatch):
    in_a_pod(monkeypatch, pretrain=(96, 6, 80))
    done = preflight(recipe="llada_8b")
    refused(done, tmp_path, "pretrain.batch_size=64, allowed: a multiple of 6", "6 processes")
    in_a_pod(monkeypatch, pretrain=(96, 8, 80))
    assert preflight(recipe="llada_8b").returncode == 0


@pytest.mark.parametrize("preference", ["dpo", "grpo", None])
@pytest.mark.parametrize("recipe", RECIPES)
def test_recipes_pass(recipe, preference):
    done = preflight(recipe=recipe, preference=preference)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "preflight: every configuration is valid\n"


def test_the_defaults_lack_data_alone(tmp_path):
    """Nobody trains a base from elsewhere on sums unless they say so."""
    done = stage("preflight", check=False)
    refused(done, tmp_path, "download.dataset=None", 'a dataset, sources, or made="sums"')
    assert "; " not in done.stderr
    said = json.dumps({"made": "sums"})
    assert stage("preflight", download=said).returncode == 0


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ({"name": "gsm8"}, ["download.problems[0].name='gsm8'", "the nearest are gsm8k, "]),
        ({"name": "gsm8k", "split": "test"}, ["download.problems[0].split='test'", "train"]),
    ],
)
def test_data_sets_by_name(tmp_path, source, words):
    refused(preflight(download={"problems": [source]}), tmp_path, *words)
    data = {**source, "name": "gsm8k", "split": "train"}
    done = preflight(download={"problems": [data], "dataset": "/data/ready"})
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("preference", ["DPO", "ppo", "", "dpo ", "grpo,dpo", "null"])
def test_preference(tmp_path, preference):
    done = preflight(preference=preference)
    refused(done, tmp_path, f"preference={preference!r}", "dpo, grpo")


def test_the_command_itself(tmp_path):
    """The other tests run the stage in a fork."""
    command = [sys.executable, "-m", "components.preflight", "--preference", "DPO"]
    command += ["--release-accuracy", str(tmp_path / "bar")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    refused(done, tmp_path, "components.preflight", "preference='DPO'", "dpo, grpo")
    assert not (tmp_path / "bar").exists()


@pytest.mark.parametrize(
    ("off", "preference"),
    [
        (("pretrain",), "grpo"),
        (("sft", "dpo"), "grpo"),
        (("dpo", "grpo"), None),
        (("pretrain", "sft", "grpo"), "dpo"),
    ],
)
def test_stages_that_are_off(off, preference):
    """Their data, their lengths and their doubts are nobody's business."""
    given = {name: None for name in off}
    done = preflight(preference=preference, **given)
    assert done.returncode == 0, done.stderr
    parts = {"pretrain": "pretrain", "sft": "sft", "dpo": "preferences", "grpo": "problems"}
    on = {part for name, part in parts.items() if name not in off} | {"test"}
    download = {part: [{"location": f"/data/{part}.jsonl"}] for part in on}
    done = preflight(preference=preference, download=download, **given)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("adapters", "words"),
    [
        (["sft", "dpo", "grpo"], "sft.lora=None, allowed: an adapter, for which this pipeline was"),
        (["dpo"], "grpo.lora=Lora(rank=32"),
    ],
)
def test_a_graph_that_was_compiled_for_other_outputs(tmp_path, adapters, words):
    """A field of the form may not turn an adapter into a whole model, which later stages miss."""
    recipe = {name: json.dumps(values) for name, values in arguments(RECIPES["tiny"]()).items()}
    del recipe["preference"]
    done = stage("preflight", check=False, graph=json.dumps({"adapters": adapters}), **recipe)
    refused(done, tmp_path, words)
    own = json.dumps({"adapters": ["dpo", "grpo"]})
    assert stage("preflight", graph=own, **recipe).returncode == 0


def test_a_preference_whose_stage_is_off(tmp_path):
    done = preflight(preference="dpo", dpo=None)
    refused(done, tmp_path, "preference='dpo', allowed: grpo, the stages that are on")
    done = preflight(**dict.fromkeys(("pretrain", "sft", "dpo", "grpo")))
    refused(done, tmp_path, "pretrain, sft, dpo, grpo: all are null")
    refused(preflight(merge=None), tmp_path, "merge=None, allowed: a JSON object")


def test_every_model_is_evaluated_on_the_same_tasks(tmp_path):
    tasks = {"tasks": ["countdown", "test"]}
    done = preflight(evaluate=tasks)
    refused(done, tmp_path, "evaluate_base.tasks=['test'], allowed: ['countdown', 'test']")
    assert preflight(evaluate=tasks, evaluate_base=tasks).returncode == 0
    done = preflight(evaluate=tasks, evaluate_base=tasks, release={"task": "test"})
    refused(done, tmp_path, "release.task='test', allowed: null or 'countdown'")


@pytest.mark.parametrize(
    ("name", "fields", "word"),
    [
        ("pretrain", {"weight_decay": float("inf")}, "pretrain.weight_decay=inf"),
        ("sft", {"steps": 1e300}, "sft.steps=1e+300"),
        ("sft", {"steps": True}, "sft.steps=True"),
        ("sft", {"clip": float("nan")}, "sft.clip=nan"),
        ("dpo", {"beta": float("inf")}, "dpo.beta=inf"),
        ("grpo", {"temperature": float("inf")}, "grpo.temperature=inf"),
        ("grpo", {"judge": {"url": "h", "model": "m"}}, "grpo.judge.url='h'"),
        ("grpo", {"judge": {"url": "http://h"}}, "grpo.judge.model is missing"),
        ("grpo", {"checkpoint_uri": "gs://bucket/key"}, "grpo.checkpoint_uri='gs://bucket/key'"),
        ("release", {"accuracy": 60}, "release.accuracy=60.0, allowed: 0 to 1"),
        ("report", {"title": " "}, "report.title=' '"),
        ("download", {"shape": {"rope_theta": float("inf")}}, "download.shape.rope_theta=inf"),
    ],
)
def test_values_name_their_stage(tmp_path, name, fields, word):
    refused(preflight(**{name: fields}), tmp_path, word)


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"steps": ' + "9" * 5000 + "}", "{", "", "\ud800"]
)
def test_text_that_is_no_json(tmp_path, text):
    refused(stage("preflight", check=False, sft=text), tmp_path, "--sft: not JSON")


def test_parts_of_the_data_that_nothing_gives(tmp_path):
    """An evaluation would miss its problems after pretraining, GRPO its own after SFT."""
    parts = ("pretrain", "sft", "preferences", "problems", "test")
    whole = {part: [{"location": f"/data/{part}.jsonl"}] for part in parts}
    assert preflight(download=whole).returncode == 0
    for part in parts:
        done = preflight(preference="grpo", download={**whole, part: []})
        if part == "preferences":  # which are DPO's
            assert done.returncode == 0
            done = preflight(preference="dpo", download={**whole, part: []})
        refused(done, tmp_path, f"download.{part}=[]", "download.dataset")
    ready = {"sft": whole["sft"], "dataset": "/data/ready"}
    assert preflight(download=ready).returncode == 0
    few = preflight(download={**whole, "examples": 10}, sft={"validation_examples": 10})
    refused(few, tmp_path, "sft.validation_examples=10, allowed: below 10 (download.examples)")


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is not None, reason="it is there")
def test_a_library_that_is_not_there(tmp_path):
    done = preflight(recipe="llada_8b", sft={"lora": {"quantized": True}})
    refused(done, tmp_path, "sft.lora.quantized=True, allowed: false", "bitsandbytes")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sft": {"steps": 10}}, "sft.warmup_steps=50 with 10 updates"),
        ({"grpo": {"warmup_steps": 121}}, "grpo.warmup_steps=121 with 120 updates"),
        ({"evaluate": {"gen_length": 32}}, "grpo.gen_length=24 with evaluate.gen_length=32"),
        ({"grpo": {"gen_length": 100}}, "grpo.gen_length=100 with sft.max_length=64"),
    ],
)
def test_doubts_are_said_and_stop_nothing(changes, words):
    done = preflight(**changes)
    assert done.returncode == 0, done.stderr
    assert words in done.stdout and done.stdout.count("preflight: note: ") <= 2
