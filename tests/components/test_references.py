"""A base by reference: written to a store once, read from there, and checked."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from components import adapted, artifact, records, references, storage
from components.download import mirror
from components.merge.config import MergeConfig
from components.storage.connection import client, split
from model import checkpoint
from model.safetensors_files import SINGLE
from tests.components.corpora import download, prose, write_jsonl
from tests.components.storage.hub_server import COMMIT, Hub
from tests.components.storage.test_hub import download as fetch
from tests.components.storage.test_hub import held, refused  # noqa: F401
from tests.conftest import stage


def refer(root, base, mirror, **config):
    """The download stage with a mirror; the directory of the model that refers to it."""
    text = write_jsonl(root / "prose.jsonl", [{"text": prose(60, seed)} for seed in range(3)])
    sample = {"long_share": 0, "min_tokens": 1}
    given = {"pretrain": [{"location": text}], "sample": sample, **config}
    download(root, base, mirror=mirror, **given)
    return root / "model"


def state(path, adapters=()):
    return adapted.load(path, adapters, dtype=torch.float32)[0].state_dict()


def equal(ours, theirs):
    return ours.keys() == theirs.keys() and all(torch.equal(ours[n], theirs[n]) for n in ours)


def where(model):
    """The location of the weights."""
    (location,) = artifact.read(model)["references"]["files"].values()
    return location


def damage(location, content):
    """Another file at the location, of whatever length."""
    local = Path("other")
    local.write_bytes(content)
    storage.put_file(local, location)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_weights_are_read_where_they_are(base, place, tmp_path):
    model = refer(tmp_path / "a", base, place)
    assert not list(model.glob("*.safetensors")) and where(model).startswith(place)
    assert {SINGLE, "config.json", "tokenizer.json"} <= artifact.verify(model)["files"].keys()
    assert equal(state(model), checkpoint.load(base, dtype=torch.float32).state_dict())
    again = refer(tmp_path / "b", base, place)
    assert where(again) == where(model)
    content = (base / SINGLE).read_bytes()
    for other, words in ((content[:-1] + b"\0", "changed since"), (b"short", "5 bytes, then")):
        damage(where(model), other)
        with pytest.raises(artifact.ArtifactError, match=words) as caught:
            state(model)
        assert where(model) in str(caught.value)
    storage.delete(where(model))
    with pytest.raises(artifact.ArtifactError, match=r"gone; a model refers to it"):
        state(model)


def test_a_model_below_the_mirror_stays_where_it_is(base, place, tmp_path, capsys):
    """Also where another program has put it there, whose objects have no sha256 beside them."""
    model, files = f"{place}/mine", {SINGLE: (base / SINGLE).read_bytes()}
    for file in base.iterdir():
        if file.suffix in (".json", ".safetensors", ".jinja"):
            files[file.name] = file.read_bytes()
    for name, content in files.items():
        upload(content, f"{model}/{name}")
    before = storage.list_files(place)
    made = refer(tmp_path / "a", model, place)
    assert where(made) == f"{model}/{SINGLE}" and storage.list_files(place) == before
    assert not list(made.glob("*.safetensors"))
    assert artifact.verify(made)["files"][SINGLE]["sha256"] == artifact.checksum(base / SINGLE)
    assert equal(state(made), checkpoint.load(base, dtype=torch.float32).state_dict())
    upload(files[SINGLE][:-1] + b"\0", where(made))
    with pytest.raises(artifact.ArtifactError, match="changed since"):
        state(made)
    upload(files[SINGLE][:-9], f"{model}/{SINGLE}")
    with pytest.raises(SystemExit, match="2"):
        refer(tmp_path / "b", model, place)
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert SINGLE in line


def upload(content, location):
    """Writes a file as any program does, without our checksums."""
    if storage.is_remote(location):
        bucket, key = split(location)
        client().put_object(Bucket=bucket, Key=key, Body=content)
    else:
        Path(location).parent.mkdir(parents=True, exist_ok=True)
        Path(location).write_bytes(content)


def test_a_node_keeps_a_copy(base, s3, tmp_path):
    cache = tmp_path / "cache"
    model = refer(tmp_path / "a", base, f"s3://bucket/{tmp_path.name}-{s3.name}", cache=str(cache))
    expected = checkpoint.load(base, dtype=torch.float32).state_dict()
    assert equal(state(model), expected) and not cache.exists(), "no volume on this node"
    cache.mkdir()
    assert equal(state(model), expected)
    (copy,) = cache.iterdir()
    copy.write_bytes(copy.read_bytes()[:-1] + b"\0")
    assert equal(state(model), expected), "a damaged copy is fetched anew"
    storage.delete(where(model))
    assert equal(state(model), expected), "the copy is read and not the store"
    assert [file.name for file in cache.iterdir()] == [copy.name]


def test_stages_on_a_reference_are_those_on_files(downloaded, tmp_path):
    """The same adapter, bit for bit, and the same merged model and release."""
    config = {"pretrain": [], "test_problems": 250}
    download(tmp_path / "by", downloaded / "model", mirror=str(tmp_path / "mirror"), **config)
    outputs = []
    for name, base in (("held", downloaded / "model"), ("by", tmp_path / "by" / "model")):
        root = tmp_path / name
        sft = {"steps": 1, "batch_size": 2, "micro_batch_size": 2, "max_length": 64}
        given = {"base": base, "dataset": downloaded / "dataset"}
        trained = {"trained": root / "trained", "metrics": root / "metrics-1"}
        stage("sft", {**sft, "lora": {"rank": 2, "alpha": 4.0}}, **given, **trained)
        given = {"base": base, "trained": root / "trained"}
        stage("merge", **given, model=root / "merged", metrics=root / "metrics-2")
        outputs.append(
            [
                (root / "trained" / "adapter_model.safetensors").read_bytes(),
                (root / "merged" / SINGLE).read_bytes(),
            ]
        )
    assert outputs[0] == outputs[1]
    damage(where(base), b"other")
    given = {"base": base, "trained": root / "trained", "metrics": root / "metrics-3"}
    done = stage("merge", **given, model=root / "again", check=False)
    refused(done, root / "again", [f"{where(base)}: changed since the model was made"])


def test_the_hub_is_asked_once(held, base, tmp_path):  # noqa: F811
    weights = f"/owner/model/resolve/{COMMIT}/{SINGLE}"
    with Hub(**held) as hub:
        for number in (1, 2):
            done = fetch(hub, tmp_path / f"{number}", mirror=str(tmp_path / "mirror"))
            assert done.returncode == 0, done.stderr
            assert (weights in hub.asked) == (number == 1)
            hub.asked.clear()
    models = [tmp_path / "1" / "model", tmp_path / "2" / "model"]
    assert where(models[0]) == where(models[1])
    assert where(models[0]).endswith(f"mirror/owner--model@{COMMIT}/{SINGLE}")
    expected = checkpoint.load(base, dtype=torch.float32).state_dict()
    for model in models:
        assert equal(state(model), expected)
        assert artifact.read(model)["summary"]["parameters"] > 0


def test_another_model_in_place_of_the_one_that_was_kept(held, base, tmp_path):  # noqa: F811
    """Before anything refers to it."""
    home, model = str(tmp_path / "mirror"), tmp_path / "model"
    shutil.copytree(base, model)
    kept = Path(mirror.put(home, f"owner/model@{COMMIT}", model, 7).location)
    (kept / SINGLE).write_text("other")
    with Hub(**held) as hub:
        done = fetch(hub, tmp_path / "b", mirror=home)
    size = (base / SINGLE).stat().st_size
    words = [f"{SINGLE}: bytes=5, allowed: {size}; this is not the model", f"remove {kept}, and"]
    refused(done, tmp_path / "b", words)
    config = (kept / "config.json").read_text()
    (kept / SINGLE).write_bytes((base / SINGLE).read_bytes())
    place = mirror.find(home, f"owner/model@{COMMIT}")
    for change, reason in (
        (config.swapcase(), "config.json: sha256="),
        (None, "config.json: gone"),
    ):
        (kept / "config.json").write_text(change) if change else (kept / "config.json").unlink()
        with pytest.raises(storage.StorageError, match=reason):
            place.copy_small_files(tmp_path / "c")


def test_models_with_the_same_weights_and_other_tokenizers(base, tmp_path):
    """Each has a place of its own."""
    home, other = str(tmp_path / "mirror"), tmp_path / "other"
    shutil.copytree(base, other)
    settings = json.loads((base / "tokenizer_config.json").read_text())
    (other / "tokenizer_config.json").write_text(json.dumps({**settings, "model_max_length": 77}))
    models = [refer(tmp_path / name, model, home) for name, model in (("a", base), ("b", other))]
    assert where(models[0]) != where(models[1])
    lengths = [
        json.loads((model / "tokenizer_config.json").read_text())["model_max_length"]
        for model in models
    ]
    assert lengths[0] != lengths[1] == 77


def test_the_place_is_no_part_of_what_an_artifact_is(tmp_path):
    facts = {"weights": {"sha256": "0" * 64, "bytes": 7}}
    made = []
    for number in (1, 2):
        path = tmp_path / f"{number}"
        path.mkdir()
        places = {"files": {"weights": f"/mirror-{number}/weights"}, "cache": None}
        artifact.record(
            {"model": path},
            stage="download",
            config=MergeConfig(),
            inputs={},
            summary={},
            references={"model": artifact.References(facts, places)},
        )
        made.append(artifact.verify(path))
    assert made[0]["fingerprint"] == made[1]["fingerprint"]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([], "references is no JSON object"),
        ({"cache": None}, "it has no references.files"),
        ({"files": {"other": "/a"}, "cache": None}, "references.files.other is no file"),
        ({"files": {"weights": 7}, "cache": None}, "references.files.weights is no file"),
        ({"files": {}, "cache": 7}, "references.cache is of another type"),
    ],
)
def test_records_that_refer_to_nothing(tmp_path, value, words):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_text("w")
    outputs = {"model": tmp_path / "model"}
    artifact.record(outputs, stage="download", config=MergeConfig(), inputs={}, summary={})
    record = {**artifact.read(tmp_path / "model"), "references": value}
    (tmp_path / "model" / artifact.RECORD).write_bytes(records.dump(records.sealed(record)))
    with pytest.raises(artifact.ArtifactError, match=words):
        artifact.read(tmp_path / "model")


def test_what_holds_its_files_is_read_as_it_is(base):
    with references.opened(base) as folder:
        assert folder == base


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"mirror": "relative"}, "mirror='relative', allowed: null, an absolute path or s3://"),
        ({"mirror": "/m", "model": "new"}, 'allowed: null, where model is "new"'),
        ({"cache": "/c"}, "cache='/c', allowed: null, or an absolute path beside a mirror"),
    ],
)
def test_settings_that_are_refused(tmp_path, config, words):
    outputs = {name: tmp_path / name for name in ("model", "dataset", "metrics")}
    done = stage("download", {"model": "owner/model", **config}, check=False, **outputs)
    assert done.returncode == 2 and words in done.stderr


def test_the_record_says_where(base, tmp_path):
    model = refer(tmp_path / "a", base, str(tmp_path / "mirror"), cache="/volume")
    stored = json.loads((model / artifact.RECORD).read_text())
    assert stored["references"]["cache"] == "/volume"
    assert list(stored["references"]["files"]) == [SINGLE]
