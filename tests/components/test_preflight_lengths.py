"""Lengths and contexts that preflight compares, through its command line."""

import pytest

from tests.components.test_bad_input import refused
from tests.components.test_preflight import preflight

FIELDS = [
    ("grpo", "gen_length", "below 128"),
    ("evaluate", "gen_length", "below 128"),
    ("pretrain", "window", "up to 128"),
    ("sft", "max_length", "up to 128"),
    ("dpo", "max_length", "up to 128"),
]


@pytest.mark.parametrize(("name", "field", "allowed"), FIELDS)
def test_every_length_is_compared_with_the_context(tmp_path, name, field, allowed):
    over = 128 if allowed.startswith("below") else 129
    for length in (over, 4096):
        done = preflight(**{name: {field: length}})
        refused(done, tmp_path, f"{name}.{field}={length}, allowed: {allowed}", "download.shape")
    assert preflight(**{name: {field: over - 1}}).returncode == 0


@pytest.mark.parametrize(("name", "field", "allowed"), FIELDS)
def test_pretraining_may_make_room(tmp_path, name, field, allowed):
    longer = {"pretrain": {"context": 512}}
    longer[name] = {**longer.get(name, {}), field: 300}
    assert preflight(**longer).returncode == 0
    longer[name][field] = 513
    if name != "pretrain":
        done = preflight(**longer)
        refused(done, tmp_path, f"{name}.{field}=513", "512 (the context of pretrain.context)")


def test_all_lengths_are_said_at_once(tmp_path):
    done = preflight(**{name: {field: 4096} for name, field, _ in FIELDS})
    refused(done, tmp_path, *(f"{name}.{field}=4096, allowed: {to}" for name, field, to in FIELDS))


def test_the_context_does_not_shrink(tmp_path):
    done = preflight(pretrain={"context": 64, "window": 64})
    refused(done, tmp_path, "pretrain.context=64, allowed: 128 (the base's own) or more")


def test_context_of_a_published_model(tmp_path):
    done = preflight(recipe="llada_8b", pretrain={"context": 2048, "window": 2048})
    refused(done, tmp_path, "pretrain.context=2048, allowed: 4096 (the base's own) or more")
    done = preflight(recipe="llada_8b", grpo={"gen_length": 8192})
    refused(done, tmp_path, "grpo.gen_length=8192, allowed: below 8192 (the context of pretrain")


def test_context_of_a_local_model(tmp_path):
    (tmp_path / "config.json").write_text('{"max_sequence_length": 100}')
    model = {"model": str(tmp_path)}
    done = preflight(download=model, sft={"max_length": 101})
    refused(done, tmp_path, "sft.max_length=101, allowed: up to 100", str(tmp_path))
    assert preflight(download=model, sft={"max_length": 100}).returncode == 0
    for text in ("{", "[]", '{"max_sequence_length": "long"}', "[" * 100_000, "\udcff"):
        (tmp_path / "config.json").write_bytes(text.encode(errors="surrogateescape"))
        refused(preflight(download=model), tmp_path, f"{tmp_path}/config.json")


@pytest.mark.parametrize("model", ["someone/else", "s3://bucket/model", "/not/mounted/here"])
def test_a_context_that_is_not_known(tmp_path, model):
    """Without network nothing is compared, unless pretraining says how long the context becomes."""
    given = {"model": model}
    done = preflight(download=given, sft={"max_length": 4096})
    assert done.returncode == 0 and f"{model!r} is not here" in done.stdout
    done = preflight(download=given, pretrain={"context": 256}, sft={"max_length": 4096})
    refused(done, tmp_path, "sft.max_length=4096, allowed: up to 256")
