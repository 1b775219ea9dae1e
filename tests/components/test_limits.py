"""No field of any configuration takes a value of another type, an endless one or an absurd one."""

import dataclasses
import importlib
import math
import types
import typing

import pytest

from components import coerce
from components.preflight.config import Recipe
from model.options import LONGEST_LIST, LONGEST_TEXT, Checked
from pipelines.recipes import tiny
from tests.components.test_contract import STAGES

KINDS = {
    stage: getattr(
        importlib.import_module(f"components.{stage}.config"), f"{stage.capitalize()}Config"
    )
    for stage in STAGES
    if stage != "preflight"
}
NUMBERS = [math.inf, -math.inf, math.nan, 1e300, -1e300, -1, -0.5, 10**30, -(10**30), 2**63, 1e18]
NO_NUMBERS = [True, "1", "", None, [], [1], {}]
NO_TEXTS = ["", " ", "a\0b", "\ud800", "x" * (LONGEST_TEXT + 1), 1, True, None, [], ["a"], {}]
NO_BOOLS = [0, 1, "true", None, []]
NO_CHOICES = ["foo", "", "Auto", 1, True, None, [], ["auto"]]
NO_LISTS = [None, 1, "ab", {}, ["a"] * (LONGEST_LIST + 1)]
MEANT = {("grpo.rewards[0][1]", -1), ("grpo.rewards[0][1]", -0.5)}  # a penalty
MEANT |= {(f"trainjob.{field}[0][1]", "") for field in ("pool", "labels")}  # without a value
MEANT |= {("evaluate.stop[0]", " ")}  # white space may end an answer
REQUIRED = {"url": "http://localhost/v1", "model": "m", "location": "rows.jsonl", "window": 16}
REQUIRED |= {"original_context": 16, "name": "mine", "kind": "text"}
LISTS = {
    "pool": [["a", "b"]],
    "labels": [["a", "b"]],
    "secrets": [["A", "b", "c"]],
    "task_files": ["/tasks"],
}
LISTS |= {
    "name": "mine",
    "text": "text",
    "keep": [["level", "3"]],
    "splits": [["a", "b"]],
}  # what others need beside them
LISTS |= {"forbidden": ["eos"], "deferred": ["eot"], "stop": ["\n"]}


def inner(hint):
    """The type that an optional one holds."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        (hint,) = [part for part in typing.get_args(hint) if part is not types.NoneType]
    return hint


def example(kind, path):
    """Valid JSON of a configuration, its nested ones and lists filled wherever they may be."""
    values = {}
    for field in dataclasses.fields(kind):
        hint, name = inner(typing.get_type_hints(kind)[field.name]), field.name
        if dataclasses.is_dataclass(hint) and (path, name) != ("sft.objective", "curriculum"):
            values[name] = example(hint, f"{path}.{name}")
        elif field.default is dataclasses.MISSING:
            values[name] = REQUIRED[name]
        elif name in LISTS:
            values[name] = LISTS[name]
        elif typing.get_origin(hint) is tuple and dataclasses.is_dataclass(
            typing.get_args(hint)[0]
        ):
            values[name] = [example(typing.get_args(hint)[0], f"{path}.{name}[0]")]
    if path in ("dpo.lora", "grpo.lora"):
        values["dropout"] = 0
    return values


def places(hint, path, keys):
    """Every place in a type: its name, the keys to it in JSON, and its type."""
    hint = inner(hint)
    if dataclasses.is_dataclass(hint):
        for name, part in typing.get_type_hints(hint).items():
            if (path, name) != ("sft.objective", "curriculum"):
                yield from places(part, f"{path}.{name}", (*keys, name))
                yield f"{path}.{name}", (*keys, name), part
    elif typing.get_origin(hint) is tuple:
        for number, part in enumerate(typing.get_args(hint)):
            if part is not Ellipsis:
                yield from places(part, f"{path}[{number}]", (*keys, number))
                yield f"{path}[{number}]", (*keys, number), part


def changed(values, keys, value):
    """The JSON with another value at the place; a list that is left out holds it alone."""
    if not keys:
        return value
    head, *rest = keys
    if isinstance(head, int):
        found = list(values)
        return [*found[:head], changed(found[head], rest, value), *found[head + 1 :]]
    return {**values, head: changed(values.get(head), rest, value)}


def bad(hint):
    """What a place of this type must refuse."""
    is_optional, hint = inner(hint) is not hint, inner(hint)
    if hint in (int, float):
        found = [*NUMBERS, *NO_NUMBERS]
    elif typing.get_origin(hint) is typing.Literal:
        found = NO_CHOICES
    elif typing.get_origin(hint) is tuple:
        found = NO_LISTS
    else:
        found = {str: NO_TEXTS, bool: NO_BOOLS}.get(hint, [1, "x", [], True])
    return [value for value in found if not (is_optional and value is None)]


@pytest.mark.parametrize("stage", KINDS)
def test_every_place_refuses_what_it_cannot_mean(stage):
    kind = KINDS[stage]
    values = example(kind, stage)
    built = coerce.build(kind, values, stage)
    full = as_json(built)
    wrong = []
    for path, keys, hint in places(kind, stage, ()):
        for value in bad(hint):
            try:
                coerce.build(kind, changed(full, keys, value), stage)
            except ValueError as error:
                named = path in str(error) or path.partition("[")[0] in str(error)
                if not named or "allowed: " not in str(error) or len(str(error)) > 1000:
                    wrong.append((path, value, str(error)[:200]))
            else:
                if (path, value) not in MEANT:
                    wrong.append((path, value, "taken"))
    assert not wrong


def as_json(config):
    """Every field of a configuration, lists and nested ones as JSON has them."""
    if dataclasses.is_dataclass(config):
        return {f.name: as_json(getattr(config, f.name)) for f in dataclasses.fields(config)}
    return [as_json(item) for item in config] if isinstance(config, tuple) else config


def reachable(kind):
    """A configuration and all that it holds."""
    yield kind
    for hint in typing.get_type_hints(kind).values():
        for part in (hint, *typing.get_args(hint)):
            if dataclasses.is_dataclass(part):
                yield from reachable(part)


@pytest.mark.parametrize("kind", sorted(set(reachable(Recipe)) | {KINDS["trainjob"]}, key=str))
def test_built_without_json(kind):
    """A recipe's author gets the same refusals as the command line."""
    assert issubclass(kind, Checked)
    needed = {
        field.name: REQUIRED.get(field.name, getattr(tiny(), field.name, 1))
        for field in dataclasses.fields(kind)
        if field.default is dataclasses.MISSING
    }
    for name, hint in typing.get_type_hints(kind).items():
        for value in bad(hint):
            if not (value == [] and typing.get_origin(inner(hint)) is tuple):
                with pytest.raises(ValueError, match=name):
                    kind(**{**needed, name: value})


@pytest.mark.parametrize(
    ("stage", "change", "message"),
    [
        ("grpo", {"judge": {}}, "grpo.judge.url is missing"),
        ("pretrain", {"objective": {"curriculum": {}}}, "curriculum.original_context is missing"),
        ("download", {"sft": [{"format": "jsonl"}]}, "download.sft[0].location is missing"),
        ("download", {"sft": [{"location": "a", "weight": 0}]}, "download.sft[0].weight=0.0"),
        ("sft", {"lora": {"rank": 0}}, "sft.lora.rank=0, allowed: 1 or more"),
        ("dpo", {"lora": {"dropout": 0.1}}, "dpo.lora.dropout=0.1, allowed: 0"),
        ("sft", {"betas": [0.9]}, "sft.betas=[0.9], allowed: a list of 2"),
        ("sft", {"examples": 10, "validation_examples": 10}, "sft.validation_examples=10"),
        ("grpo", {"rewards": [["format", 0]]}, "grpo.rewards=(('format', 0.0),)"),
        ("evaluate", {"seed": 2**32}, "evaluate.seed=4294967296"),
        (
            "evaluate",
            {"block_length": 9, "gen_length": 8},
            "evaluate.block_length=9, allowed: 1 to",
        ),
        ("grpo", {"block_length": 9, "gen_length": 8}, "grpo.block_length=9, allowed: 1 to"),
    ],
)
def test_messages_give_the_path(stage, change, message):
    with pytest.raises(ValueError) as caught:
        coerce.build(KINDS[stage], change, stage)
    assert message in str(caught.value)


PLACES = ("gs://b/k", "http://h/k", "file:///k", "s3:/x", "s3://", "s3:///k", "S3://b", "here", "")
PLACES += ("./here", "~/here", " /x", "hf://datasets/a/b")


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("stage", ["pretrain", "sft", "dpo", "grpo"])
def test_checkpoints_are_kept_where_something_can_be_kept(stage, place):
    with pytest.raises(ValueError, match=f"{stage}.checkpoint_uri=.*s3://BUCKET/KEY"):
        coerce.build(KINDS[stage], {"checkpoint_uri": place}, stage)


@pytest.mark.parametrize("place", ["/a", "/a/b c", "s3://bucket", "s3://bucket/", "s3://b.c-d/k/l"])
def test_places_for_checkpoints(place):
    assert coerce.build(KINDS["sft"], {"checkpoint_uri": place}).checkpoint_uri == place


@pytest.mark.parametrize("field", ["model", "dataset"])
@pytest.mark.parametrize("place", ["gs://b/k", "https://h/k", "hf://datasets/a/b", "s3://"])
def test_nothing_is_downloaded_from_another_kind_of_place(field, place):
    with pytest.raises(ValueError, match=f"download.{field}='{place}'"):
        coerce.build(KINDS["download"], {field: place}, "download")


@pytest.mark.parametrize("place", ["gs://b/k", "https://h/k", "hf://", "hf:/a", "s3://", "s3:/b"])
def test_sources_of_another_kind(place):
    with pytest.raises(ValueError, match=r"download.sft\[0\].location="):
        coerce.build(KINDS["download"], {"sft": [{"location": place}]}, "download")


URLS = ("http://", "http:///v1", "http://h:0/v1", "http://h:70000", "http://h:x/v1", "http://h h")
URLS += ("http://h/v 1", "http://h?q=1", "http://h/v1?q", "http://h/#x", "http://[::1", "ftp://h")
URLS += ("http://\x7f/", "http://hä/v1")


@pytest.mark.parametrize("url", URLS)
def test_the_judge_has_an_address(url):
    with pytest.raises(ValueError, match=r"grpo.judge.url=.*http:// or https://"):
        coerce.build(KINDS["grpo"], {"judge": {"url": url, "model": "m"}}, "grpo")


@pytest.mark.parametrize(
    "url", ["http://h", "https://a.b-c.svc:8000/v1/", "http://[::1]:11434/v1", "http://10.0.0.1/v1"]
)
def test_addresses_of_a_judge(url):
    built = coerce.build(KINDS["grpo"], {"judge": {"url": url, "model": "m"}})
    assert built.judge.url == url
