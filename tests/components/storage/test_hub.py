"""Models and rows from the Hub, by its real client against a stand-in on this machine."""

import json
import os
import subprocess
import sys

import pytest

from components import artifact
from tests.components.corpora import prose
from tests.components.storage.hub_server import COMMIT, Hub
from tests.conftest import ROOT

ROWS = [{"text": prose(60, seed)} for seed in range(40)]
CORPUS = "hf://datasets/owner/corpus"


@pytest.fixture(scope="module")
def held(base):
    """What the stand-in holds: the model of `base`, and a corpus in two files."""
    lines = [json.dumps(row).encode() + b"\n" for row in ROWS]
    corpus = {"data/a.jsonl": b"".join(lines[:30]), "data/b.jsonl": b"".join(lines[30:])}
    model = {path.name: path.read_bytes() for path in base.iterdir() if path.name[0] != "."}
    model["pytorch_model.bin"] = corpus["README.md"] = b"never"
    return {"model": model, "corpus": corpus}


def download(hub, root, model="owner/model", location=f"{CORPUS}/data/*.jsonl", **own):
    sample = {"min_tokens": 1, "long_share": 0}
    config = {"model": model, "pretrain": [{"location": location}], "sample": sample}
    return run(hub, root, {**config, **own})


def run(hub, root, config, token="secret"):
    """The download stage in a process of its own, since the client reads its settings once."""
    command = [sys.executable, "-m", "components.download", "--config", json.dumps(config)]
    for name in ("model", "dataset", "metrics"):
        command += [f"--{name}", str(root / name)]
    env = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(root / "cache")}
    env |= {"HF_TOKEN": token, "HF_HUB_DISABLE_TELEMETRY": "1"}
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("cuts", [0, 2])
def test_model_and_rows(held, base, tmp_path, cuts):
    """Also when connections break in the middle of a file."""
    with Hub(**held) as hub:
        hub.cuts = cuts
        done = download(hub, tmp_path)
    assert done.returncode == 0, done.stderr
    assert hub.cuts == 0 and hub.tokens == {"Bearer secret"}
    assert not [path for path in hub.asked if path.endswith(("pytorch_model.bin", "README.md"))]
    weights = (tmp_path / "model" / "model.safetensors").read_bytes()
    assert weights == (base / "model.safetensors").read_bytes()
    record = artifact.verify(tmp_path / "dataset")
    assert record["summary"]["hub_model"] == f"owner/model@{COMMIT}"
    report = json.loads((tmp_path / "dataset" / "report.json").read_text())["pretrain"]
    assert report["documents"] == len(ROWS)
    assert f"/owner/model/resolve/{COMMIT}/model.safetensors" in hub.asked


def test_a_file_that_is_not_what_the_hub_publishes(held, base, tmp_path):
    """It is not kept in the client's cache either: the same command ends well."""
    with Hub(**held) as hub:
        hub.flips = 1
        done = download(hub, tmp_path)
        assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
        assert "model.safetensors is not what the Hub publishes, by its checksum" in done.stderr
        assert not (tmp_path / "model" / artifact.RECORD).exists()
        done = download(hub, tmp_path)
    assert done.returncode == 0, done.stderr
    weights = (tmp_path / "model" / "model.safetensors").read_bytes()
    assert weights == (base / "model.safetensors").read_bytes()


def test_no_weights_are_fetched_for_a_base_that_does_not_fit(held, tmp_path):
    config = json.loads(held["model"]["config.json"]) | {"mask_token_id": 5}
    other = {**held["model"], "config.json": json.dumps(config).encode()}
    with Hub(**{**held, "model": other}) as hub:
        done = download(hub, tmp_path)
    assert done.returncode == 2 and "mask_token_id=5" in done.stderr.splitlines()[-1]
    assert f"/owner/model/resolve/{COMMIT}/tokenizer.json" in hub.asked
    assert not [path for path in hub.asked if path.endswith(".safetensors")]


@pytest.mark.parametrize("place", ["hub", "here"])
def test_weights_that_are_a_pickle_are_refused_by_name(held, base, tmp_path, place):
    files = {name: held["model"][name] for name in held["model"] if "safetensors" not in name}
    for name, content in files.items():
        (tmp_path / "base").mkdir(exist_ok=True)
        (tmp_path / "base" / name).write_bytes(content)
    model = {"hub": "owner/model", "here": str(tmp_path / "base")}[place]
    with Hub(**{**held, "model": files}) as hub:
        done = download(hub, tmp_path, model=model)
    words = [f"model {model!r}: pytorch_model.bin is a pickle", "allowed: *.safetensors"]
    refused(done, tmp_path, words)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"model": "owner/other"}, ["model 'owner/other' is neither a local directory nor"]),
        ({"location": f"{CORPUS}/data/*.parquet"}, ["*.parquet: no such file on the Hub"]),
        (
            {"location": "hf://datasets/owner/other/a.jsonl"},
            ["other/a.jsonl: no such file on the Hub"],
        ),
    ],
)
def test_not_on_the_hub(held, tmp_path, given, words):
    with Hub(**held) as hub:
        refused(download(hub, tmp_path, **given), tmp_path, words)


def test_connection_that_keeps_breaking(held, base, tmp_path):
    with Hub(**held) as hub:
        hub.cuts = 1000
        done = download(hub, tmp_path, model=str(base))
    words = ["data/a.jsonl: not to be had from the Hub", "closed connection"]
    refused(done, tmp_path, words, code=1)


def test_gated_data_are_refused_before_the_model_is_fetched(held, tmp_path):
    with Hub(**held) as hub:
        hub.gated = {"owner/corpus"}
        words = ["corpus/data/a.jsonl: not to be had from the Hub: the repository is gated"]
        refused(download(hub, tmp_path), tmp_path, [*words, "set HF_TOKEN to a token of that"])
        assert not [path for path in hub.asked if path.startswith("/owner/model/")]


STORAGE = """
import sys
from components import storage
try:
    if sys.argv[1].startswith("hf://"):
        print(storage.open_file(next(iter(storage.find(sys.argv[1]).files.values()))).read())
    else:
        print(storage.fetch(sys.argv[1], None, kind="model", patterns=["*.json"]))
except storage.StorageError as error:
    print(error)
"""


def read(hub, root, name):
    """What the storage prints that reads a file of the Hub, or fetches a model."""
    env = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(root), "HF_TOKEN": ""}
    command = [sys.executable, "-c", STORAGE, name]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_a_gated_model(held, tmp_path):
    with Hub(**held) as hub:
        hub.gated = {"owner/model"}
        (line,) = read(hub, tmp_path, "owner/model")
    assert line.startswith("model 'owner/model' is neither a local directory nor to be had from")
    assert line.endswith("and set HF_TOKEN to a token of that account")


def test_a_hub_that_limits_requests(held, tmp_path):
    """It is waited for as it asks, and named where that does not help."""
    location = f"{CORPUS}/data/b.jsonl"
    waited = f"{location}: the Hub limits requests; waiting 1 s as it asks"
    with Hub(**held) as hub:
        hub.limits = 2
        *pauses, content = read(hub, tmp_path / "a", location)
        assert pauses == [waited] * 2 and content == str(held["corpus"]["data/b.jsonl"])
        hub.limits = 1000
        *pauses, error = read(hub, tmp_path / "b", location)
        assert pauses == [waited] * 5
        assert error.startswith(f"{location}: not to be had from the Hub: it limits requests, and")
        assert error.endswith("asks to wait 1 s more; a token in HF_TOKEN raises the limit")
        hub.seconds = 601
        (error,) = read(hub, tmp_path / "b", location)
        assert "asks to wait 601 s more" in error, "longer than anybody waits"


@pytest.mark.parametrize("given", [{}, {"model": "owner/model", "location": "unused"}])
def test_a_hub_that_does_not_answer(held, base, tmp_path, given):
    """The world failed, so that the same command may be given again: exit code 1."""
    with Hub(**held) as hub:
        pass
    given = {"model": str(base), **given}
    location = str(base / "tokenizer.json") if "location" in given else f"{CORPUS}/data/*.jsonl"
    done = download(hub, tmp_path, model=given["model"], location=location)
    refused(done, tmp_path, ["from the Hub"], code=1)


def refused(done, root, words, code=2):
    """The exit code and one line of our own that holds the words; nothing looks done."""
    assert done.returncode == code, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if ": error: " in line]
    assert all(word in line for word in words), line
    assert "Traceback" not in done.stderr
    assert not [path for path in root.rglob(artifact.RECORD) if "cache" not in path.parts]
