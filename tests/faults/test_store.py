"""Object storage that refuses, breaks, flips bits or lacks a right: through stages' commands."""

import collections
import json
import random

import pytest

from components import artifact, storage
from tests.components.conftest import ACCESS, SECRET, point_at
from tests.components.corpora import prose, write_jsonl
from tests.components.session.runs import curve
from tests.components.storage.faulty_server import Faulty, busy, chances, refusal
from tests.conftest import stage

SMALL = {"steps": 6, "batch_size": 4, "micro_batch_size": 2, "max_length": 64, "examples": 50}
FAULTS = {"busy": 0.15, "reset": 0.15, "truncated": 0.05, "flipped": 0.01}
KEYS = {
    "AWS_ACCESS_KEY_ID": ACCESS,
    "AWS_SECRET_ACCESS_KEY": SECRET,
    "AWS_DEFAULT_REGION": "us-east-1",
}


def run(proxy, monkeypatch, name, config, root, inputs, outputs, **options):
    """Runs a stage against the proxy; returns the finished process."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
    paths = {**inputs, **{output: root / output for output in outputs}}
    return stage(name, config, **paths, **options)


def files(root):
    """The content of every file, but records, and metrics, which hold speeds."""
    return {
        file.relative_to(root).as_posix(): file.read_bytes()
        for file in sorted(root.rglob("*"))
        if file.is_file() and file.name not in (artifact.RECORD, artifact.METRICS)
    }


def test_an_unreliable_store(nanio, downloaded, base, monkeypatch, tmp_path):
    """A model is fetched from it, and a run keeps its states there and goes on from them.

    Times of a test are noisy, so the bound of three times the calm time is that of the requests;
    the pauses between them begin at 50 ms (`components.storage.retries`).
    """
    point_at(nanio, monkeypatch)
    for file in sorted(base.iterdir()):
        storage.put_file(file, f"s3://bucket/unreliable/{file.name}")
    text = write_jsonl(tmp_path / "prose.jsonl", [{"text": prose(60, seed)} for seed in range(20)])
    corpus = {"pretrain": [{"location": text}], "sample": {"min_tokens": 1, "long_share": 0}}
    fetched = {"model": "s3://bucket/unreliable", **corpus}
    opened = {"base": downloaded / "model", "dataset": downloaded / "dataset"}
    counts = {}
    for name, shares in (("calm", {}), ("faulty", FAULTS)):
        kept = {"checkpoint_uri": f"s3://bucket/kept-{name}", "checkpoint_steps": 1}
        with Faulty(nanio, chances(random.Random(7), **shares)) as proxy:
            outputs = ("model", "dataset", "metrics")
            run(proxy, monkeypatch, "download", fetched, tmp_path / name / "1", {}, outputs)
            for number in ("2", "3"):  # the second goes on from the last state of the first
                root, outputs = tmp_path / name / number, ("trained", "metrics")
                run(proxy, monkeypatch, "sft", SMALL | kept, root, opened, outputs)
            counts[name] = len(proxy.requests)
    assert files(tmp_path / "faulty") == files(tmp_path / "calm")
    records = [
        [json.loads(line) for line in (root / "metrics" / artifact.METRICS).open()]
        for root in sorted(tmp_path.glob("*/[23]"))
    ]
    assert all(curve(record) == curve(records[0]) for record in records)
    assert counts["calm"] < counts["faulty"] < 3 * counts["calm"]


REFUSALS = {
    "RequestTimeTooSkewed": "the clocks of this machine and of the server differ",
    "ExpiredToken": "the credentials have expired",
    "AuthorizationHeaderMalformed": "'us-east-1' is wrong, the bucket is in eu-central-1",
    "NoSuchBucket": "no such bucket",
}


def refusing(code, lacks):
    status = 404 if code == "NoSuchBucket" else 403
    return lambda handler, ask: refusal(code, status) if lacks(handler) else ask()


RIGHTS = {
    "s3:GetObject": lambda handler: (
        handler.command in ("GET", "HEAD")
        and "list-type" not in handler.path
        and "uploads" not in handler.path
    ),
    "s3:ListBucket": lambda handler: handler.command == "GET" and "list-type" in handler.path,
    "s3:PutObject": lambda handler: handler.command == "PUT",
    "s3:DeleteObject": lambda handler: handler.command in ("DELETE", "POST"),
    "s3:ListBucketMultipartUploads": lambda handler: (
        handler.command == "GET" and "uploads" in handler.path
    ),
}


@pytest.mark.parametrize("case", [*REFUSALS, *RIGHTS])
def test_what_is_wrong_is_named_before_the_first_step(
    nanio, downloaded, monkeypatch, tmp_path, case
):
    point_at(nanio, monkeypatch)
    lacks, code = (
        RIGHTS.get(case, lambda handler: True),
        case if case in REFUSALS else "AccessDenied",
    )
    config = {**SMALL, "checkpoint_uri": "s3://bucket/refused"}
    opened = {"base": downloaded / "model", "dataset": downloaded / "dataset"}
    outputs = ("trained", "metrics")
    with Faulty(nanio, refusing(code, lacks)) as proxy:
        done = run(proxy, monkeypatch, "sft", config, tmp_path, opened, outputs, check=False)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("components.sft: error: s3://bucket/refused")
    assert REFUSALS.get(case, f"they lack {case}") in line
    assert not list(tmp_path.rglob(artifact.RECORD))
    assert not (tmp_path / "metrics" / artifact.METRICS).exists()


@pytest.mark.parametrize("right", ["s3:GetObject", "s3:ListBucket"])
@pytest.mark.parametrize("role", ["model", "pretrain"])
def test_a_right_to_read_that_is_missing_is_named(nanio, base, monkeypatch, tmp_path, role, right):
    """A base model and a corpus: a person may list but not read, or read but not list."""
    point_at(nanio, monkeypatch)
    for file in sorted(base.iterdir()):
        storage.put_file(file, f"s3://bucket/unread/{file.name}")
    text = write_jsonl(tmp_path / "prose.jsonl", [{"text": prose(60, seed)} for seed in range(20)])
    storage.put_file(tmp_path / "prose.jsonl", "s3://bucket/unread-rows/prose.jsonl")
    place = {"model": "s3://bucket/unread", "pretrain": "s3://bucket/unread-rows"}
    config = {
        "model": str(base),
        "pretrain": [{"location": text}],
        "sample": {"min_tokens": 1, "long_share": 0},
        role: {"model": place[role], "pretrain": [{"location": place[role]}]}[role],
    }
    outputs, lacks = ("model", "dataset", "metrics"), RIGHTS[right]
    with Faulty(nanio, refusing("AccessDenied", lacks)) as proxy:
        done = run(proxy, monkeypatch, "download", config, tmp_path, {}, outputs, check=False)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    (line,) = done.stderr.splitlines()
    assert place[role] in line and f"lack {right}" in line
    assert not list(tmp_path.rglob(artifact.RECORD))


def test_the_shares_are_those_of_the_table():
    drawn = collections.Counter()

    def ask():
        drawn["asked"] += 1
        return busy()

    class Get:
        command = "GET"

    fault = chances(random.Random(0), **FAULTS)
    answers = [fault(Get, ask) for _ in range(4000)]
    resets = sum(answer.resets for answer in answers)
    assert 0.13 < resets / 4000 < 0.17 and 0.67 < drawn["asked"] / 4000 < 0.73
