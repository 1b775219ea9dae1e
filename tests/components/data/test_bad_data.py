"""Bad data through the real command line: one line, exit code 2, nothing that looks done."""

import gzip
import json
import os
import random
import re
import subprocess
import sys
from collections import Counter

import pyarrow
import pyarrow.parquet
import pytest

from components import storage
from components.artifact import RECORD
from components.data import dataset as data
from components.drawing import escape_markdown
from tests.components.corpora import download, prose, write_jsonl
from tests.conftest import ROOT

GOOD = (json.dumps({"text": prose(100, 0)}) + "\n").encode()
SINK = pyarrow.BufferOutputStream()
pyarrow.parquet.write_table(pyarrow.table({"qqqq": ["a"]}), SINK, store_schema=False)
NOT_A_NAME = SINK.getvalue().to_pybytes().replace(b"qqqq", b"q\xa4qq")
SAMPLE = {"min_tokens": 1, "long_share": 0}


def refused(root, capsys, base, *words, **config):
    """The stage ends with code 2 and one line that holds the words; nothing looks done."""
    with pytest.raises(SystemExit) as end:
        download(root / "out", base, **config)
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert end.value.code == 2 and line.startswith("components.download: error: ")
    for word in words:
        assert word in line
    assert not list((root / "out").rglob(RECORD))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("cut.jsonl.gz", gzip.compress(GOOD * 9)[:-20], ["damaged or not jsonl"]),
        ("flip.jsonl.gz", gzip.compress(GOOD)[:-8] + b"00000000", ["damaged", "CRC"]),
        ("plain.jsonl.gz", GOOD, ["damaged or not jsonl", "gzip"]),
        ("cut.txt.zst", pyarrow.compress(GOOD * 9, "zstd", asbytes=True)[:-9], ["damaged"]),
        ("plain.jsonl.zst", GOOD, ["damaged or not jsonl"]),
        ("cut.parquet", b"PAR1 and no more", ["damaged or not parquet"]),
        ("name.parquet", NOT_A_NAME, ["name.parquet: damaged or not parquet", "utf-8"]),
        ("rows.jsonl", b"\n{not json\n", ["'not_json': 1", "first not_json at ", "rows.jsonl:2"]),
        ("list.jsonl", b"[1, 2]\nnull\n", ["'not_an_object': 2", "list.jsonl:1"]),
        ("deep.jsonl", b'{"text": ' + b"[" * 200_000, ["'too_deep': 1", "deep.jsonl:1"]),
        ("latin.jsonl", b'{"text": "\xfc"}\n', ["'not_utf8': 1", "latin.jsonl:1"]),
        ("corpus.csv", b"text\n", ["unknown kind of file, allowed: .jsonl", ".parquet"]),
        ("corpus.gz", gzip.compress(GOOD), ["unknown kind of file"]),
        ("empty.jsonl", b"", ["pretrain: no document is left; dropped: {}"]),
        ("other.jsonl", b'{"body": "x"}\n', ["no document is left", "'no_text': 1"]),
    ],
)
def test_bad_file(tmp_path, capsys, base, name, content, words):
    (tmp_path / name).write_bytes(content)
    named = [{"location": str(tmp_path / name)}]
    refused(tmp_path, capsys, base, *words, pretrain=named, sample=SAMPLE)


TALK = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}
PARTS = {
    "pretrain": {"text": "some words"},
    "sft": TALK,
    "preferences": {"prompt": "q", "chosen": "a", "rejected": "b"},
    "problems": {"prompt": "q", "answer": "a", "verifier": "exact"},
    "test": {"prompt": "q", "answer": "a", "verifier": "exact"},
}
ODD = {
    b"null": "not_an_object",
    b"5": "not_an_object",
    b'"text"': "not_an_object",
    b"[]": "not_an_object",
    b"{": "not_json",
    b'{"a": "caf\xe9"}': "not_utf8",
    b'{"prompt": "\\ud800", "text": "\\ud800", "messages": "\\ud800"}': "unpaired_surrogate",
    b'{"a": ' + b"[" * 9999 + b"]" * 9999 + b"}": "too_deep",
    b'{"a": ' + b"9" * 5000 + b"}": "number_too_long",
    b'{"a": 1, "a": 2}': "duplicate_key",
    b'{"text": "' + b"x" * (1 << 20) + b'"}': "too_large",
}


@pytest.mark.parametrize("ready", [True, False])
def test_odd_rows_are_counted_in_every_part(tmp_path, base, capsys, ready):
    """A ready-made dataset and sources are read alike; every reason is named with a place."""
    for part, row in PARTS.items():
        good = b"\xef\xbb\xbf" + json.dumps(row).encode() + b"\r\n\n"
        (tmp_path / f"{part}.jsonl").write_bytes(good + b"\n".join(ODD) + b"\n" + good)
    config = {"dataset": str(tmp_path)} if ready else {"sample": SAMPLE | {"quality": False}}
    if not ready:
        config |= {part: [{"location": str(tmp_path / f"{part}.jsonl")}] for part in PARTS}
    dataset, report = download(tmp_path / "out", base, decontaminate=False, **config)
    capsys.readouterr()
    for part, row in PARTS.items():
        places = {}
        for number, reason in enumerate(ODD.values(), 3):
            places.setdefault(reason, f"{tmp_path / part}.jsonl:{number}")
        assert report[part]["documents"] == 2
        assert report[part]["dropped"] == Counter(ODD.values())
        assert report[part]["first_dropped"] == places
        line = f"| not\\_json | {escape_markdown(places['not_json'])} |"
        assert line in (dataset / "report.md").read_text()
        if part != "pretrain" or ready:
            assert data.read(dataset, part) == [row, row]


def test_a_ready_made_set_on_s3_is_named_by_its_location(s3, tmp_path, base):
    place = f"s3://bucket/ready-{random.getrandbits(32):x}"
    for part, row in PARTS.items():
        write_jsonl(tmp_path / f"{part}.jsonl", [row, None])
        storage.put_file(tmp_path / f"{part}.jsonl", f"{place}/{part}.jsonl")
    dataset, report = download(tmp_path / "out", base, dataset=place, decontaminate=False)
    assert data.read(dataset, "sft") == [TALK]
    assert report["sft"]["first_dropped"] == {"not_an_object": f"{place}/sft.jsonl:2"}
    assert report["sft"]["sources"] == {place: 2}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "not there; a dataset has pretrain, sft"),
        (b"", "empty"),
        (b"null\n", "no row is left"),
    ],
)
def test_a_ready_made_part_without_rows(tmp_path, capsys, base, content, words):
    for part, row in PARTS.items():
        write_jsonl(tmp_path / f"{part}.jsonl", [row])
    (tmp_path / "sft.jsonl").unlink()
    if content is not None:
        (tmp_path / "sft.jsonl").write_bytes(content)
    refused(tmp_path, capsys, base, "sft", words, dataset=str(tmp_path))


@pytest.mark.parametrize(
    ("part", "line", "words"),
    [
        ("sft", b"null", "not a JSON object"),
        ("sft", b"{", "not JSON: Expecting property name enclosed in double quotes (column 2)"),
        ("sft", b'{"messages": "\xff"}', "not UTF-8: byte 0xff at 14"),
        ("sft", b'{"messages": []}', "messages=[], allowed: a list of messages"),
        (
            "sft",
            b'{"messages": [{"role": "user"}]}',
            "messages=[{'role': 'user'}], allowed: a list",
        ),
        ("preferences", b'{"prompt": "q", "chosen": "a"}', "lacks rejected"),
        (
            "test",
            b'{"system": 5, "prompt": "q", "answer": "a", "verifier": ""}',
            "system=5, allowed: a text",
        ),
        ("test", b'{"prompt": "q", "answer": 5, "verifier": ""}', "answer=5, allowed: a text"),
        ("test", b'{"prompt": null, "answer": "", "verifier": ""}', "prompt=None, allowed: a text"),
    ],
)
def test_a_bad_row_of_an_artifact(tmp_path, part, line, words):
    """Its stage names the file and line."""
    good = "\ufeff" + json.dumps(PARTS[part]) + "\r\n\n"
    (tmp_path / f"{part}.jsonl").write_bytes(good.encode() + line + b"\n")
    with pytest.raises(ValueError, match=re.escape(f"{part}.jsonl:3: {words}")):
        data.read(tmp_path, part)


@pytest.mark.parametrize(
    ("location", "words"),
    [
        ("nowhere.jsonl", ["nowhere.jsonl: no such file"]),
        ("*.jsonl.gz", ["*.jsonl.gz: no such file"]),
        (
            "gs://bucket/rows.jsonl",
            ["pretrain[1].location='gs://bucket/rows.jsonl', allowed: a path"],
        ),
        ("hf://rows.jsonl", ["pretrain[1].location='hf://rows.jsonl', allowed: a path, s3:"]),
        ("s3:///rows.jsonl", ["pretrain[1].location='s3:///rows.jsonl', allowed: a path, s3:"]),
    ],
)
def test_bad_location_is_found_before_a_model_is_fetched(
    tmp_path, capsys, monkeypatch, location, words
):
    monkeypatch.chdir(tmp_path)
    good = {"location": write_jsonl(tmp_path / "good.jsonl", [{"text": prose(100, 0)}])}
    named = [good, {"location": location}]
    refused(tmp_path, capsys, "no-such-model", *words, pretrain=named)


def test_nothing_on_s3(s3, tmp_path, capsys, base):
    named = [{"location": "s3://bucket/nothing/*.jsonl"}]
    refused(tmp_path, capsys, base, "s3://bucket/nothing/*.jsonl: no such file", sft=named)


def test_no_row_is_left(tmp_path, capsys, base):
    named = [{"location": write_jsonl(tmp_path / "rows.jsonl", [{"prompt": "a"}] * 3)}]
    refused(tmp_path, capsys, base, "sft: no row is left; dropped: {'no_answer': 3}", sft=named)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"problems": [{"location": "x", "verifier": "vibes"}]}, ["verifier='vibes'", "math"]),
        ({"sft": [{"location": ""}]}, ["location=''", "s3://"]),
        ({"sft": [{"location": "x", "weight": 0}]}, ["weight=0", "above 0"]),
        ({"sft": [{"location": "x", "format": "csv"}]}, ["format='csv'", "jsonl, parquet, text"]),
        ({"sample": {"long_share": 1.5}}, ["sample.long_share=1.5"]),
        ({"sample": {"min_tokens": 9000}}, ["sample.long_tokens=8096", "9000 or more"]),
        ({"max_tokens": 2}, ["max_tokens=2", "8 or more"]),
    ],
)
def test_bad_configuration(tmp_path, capsys, base, config, words):
    refused(tmp_path, capsys, base, *words, **config)


def test_a_hub_that_does_not_answer(tmp_path, base):
    """A well-formed address reaches for the Hub, here a port where nothing listens."""
    location = "hf://datasets/owner/name@0123abc/data/*.parquet"
    config = {"model": str(base), "pretrain": [{"location": location}]}
    command = [sys.executable, "-m", "components.download", "--config", json.dumps(config)]
    for name in ("model", "dataset", "metrics"):
        command += [f"--{name}", str(tmp_path / name)]
    env = {**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_DISABLE_TELEMETRY": "1"}
    done = subprocess.run(
        command, cwd=ROOT, env=env, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 1, done.stderr  # the world failed, not the configuration
    (line,) = [line for line in done.stderr.splitlines() if ": error: " in line]
    assert f"{location}: not to be had from the Hub" in line and "Traceback" not in done.stderr
    assert not list(tmp_path.rglob(RECORD))


@pytest.mark.parametrize(
    "line", [b'{"text": "' + b"a" * (100 << 20) + b'"}', b"[" + b"[]," * (33 << 20) + b"[]]"]
)
def test_a_line_of_100_mb_takes_little_memory(tmp_path, line):
    """Of a ready-made data set, read by a stage; a process of its own has a peak of its own."""
    (tmp_path / "sft.jsonl").write_bytes(line + b"\n")
    program = (
        "import resource, sys\nfrom pathlib import Path\nfrom components.data import dataset\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try:\n    dataset.read(Path(sys.argv[1]), 'sft')\n"
        "except ValueError as error:\n    print(error)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    message, kilobytes = done.stdout.splitlines()
    assert message.endswith("sft.jsonl:1: a line of more than 16,777,216 bytes")
    assert int(kilobytes) < 100_000
