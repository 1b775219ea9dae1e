"""A base whose tokenizer does not fit it is refused where it enters: local, S3 and Hub, by name."""

import json
import shutil

import pytest
import torch

from components import artifact
from model import checkpoint
from model.tokenizer import CHAT, EOS, load_tokenizer
from tests.components.conftest import point_at
from tests.components.corpora import download
from tests.conftest import stage

LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 4711\n"


def edit(name, **changes):
    """A change of keys of a JSON file; None removes a key."""

    def change(path):
        values = json.loads((path / name).read_text()) | changes
        kept = {key: value for key, value in values.items() if value is not None}
        (path / name).write_text(json.dumps(kept))

    return change


def write(name, text):
    return lambda path: (path / name).write_text(text)


def truncate(name):
    return lambda path: (path / name).write_text((path / name).read_text()[:-40])


def more_words(count):
    """Adds tokens to the tokenizer, above the model's rows if they are many."""

    def change(path):
        tokenizer = load_tokenizer(path)
        tokenizer.add_tokens([f"word{number}" for number in range(count)])
        tokenizer.save_pretrained(path)

    return change


def split_by(expression):
    """A tokenizer whose texts are split by a regular expression."""
    split = {"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated"}
    return edit("tokenizer.json", pre_tokenizer={**split, "invert": False})


def no_spare_rows(path):
    """Takes the chat tokens away and fills the rows that they could have."""
    file = path / "tokenizer.json"
    words = json.loads(file.read_text())
    lost = {name: f"other{number}" for number, name in enumerate(CHAT)}
    for entry in words["added_tokens"]:
        entry["content"] = lost.get(entry["content"], entry["content"])
    vocabulary = words["model"]["vocab"]
    words["model"]["vocab"] = {lost.get(key, key): value for key, value in vocabulary.items()}
    file.write_text(json.dumps(words))
    (path / "tokenizer_config.json").write_text(json.dumps({"eos_token": EOS}))


CASES = [
    (edit("tokenizer_config.json", eos_token=None), ["no EOS token", "eos_token"]),
    (more_words(30), ["largest id is 349 (word29)", "up to 319", "320 rows"]),
    (no_spare_rows, ["one of 3 special tokens added here", "up to 319"]),
    (edit("config.json", mask_token_id=5), ["mask_token_id=5", "<|mdm_mask|>"]),
    (edit("config.json", mask_token_id=126336), ["mask_token_id=126336", "<|mdm_mask|>"]),
    (edit("config.json", eos_token_id=7), ["eos_token_id=7", "<|endoftext|>"]),
    (edit("config.json", pad_token_id=9999), ["pad_token_id=9999", "<|endoftext|>"]),
    (edit("config.json", eos_token_id=None), ["eos_token_id=126081", "<|endoftext|>"]),
    (write("tokenizer.json", LFS), ["tokenizer.json", "Git LFS pointer", "git lfs pull"]),
    (write("tokenizer_config.json", LFS), ["tokenizer_config.json", "Git LFS pointer"]),
    (write("config.json", LFS), ["config.json", "Git LFS pointer"]),
    (write("model.safetensors", LFS), ["model.safetensors", "Git LFS pointer"]),
    (write("tokenizer.json", ""), ["tokenizer.json: is empty"]),
    (write("model.safetensors", ""), ["model.safetensors: is empty"]),
    (truncate("tokenizer.json"), ["tokenizer.json: not JSON"]),
    (write("tokenizer.json", "[1]"), ["tokenizer.json: holds a list"]),
    (write("tokenizer.json", '{"version": "1.0"}'), ["tokenizer.json: no tokenizer can be made"]),
    (split_by("(a+)+$"), ["tokenizer.json: no tokenizer can be made", "retry-limit"]),
    (split_by("(?:q|qq)+y"), ["tokenizer.json: no tokenizer can be made", "retry-limit"]),
    (split_by("q*q*q*q*q*q*q*y"), ["tokenizer.json: no tokenizer can be made", "retry-limit"]),
    (split_by("("), ["tokenizer.json: no tokenizer can be made", "unmatched parenthesis"]),
    (edit("config.json", n_layers=200_000), ["n_layers=200000", "up to 1000"]),
    (edit("config.json", rope_theta="x"), ["rope_theta='x'", "a number between"]),
    (
        edit("config.json", model_type="dream", auto_map={"AutoModel": "modeling_dream.Dream"}),
        ["model_type='dream', allowed: 'llada'", "its modeling_dream.py is never run"],
    ),
    (lambda path: (path / "tokenizer.json").unlink(), ["tokenizer.json: no such file"]),
]


@pytest.fixture
def damaged(base, tmp_path):
    """Copies the smallest model, without a record, and damages it."""

    def copy(change):
        path = tmp_path / "upstream"
        shutil.copytree(base, path, ignore=shutil.ignore_patterns(artifact.RECORD))
        change(path)
        return path

    return copy


def refused(root, capsys, name, *words):
    with pytest.raises(SystemExit) as end:
        download(root, name)
    assert end.value.code == 2
    line = capsys.readouterr().err.splitlines()[-1]
    for word in ("download: error: ", *words):
        assert word in line
    assert not list(root.rglob(artifact.RECORD))


@pytest.mark.parametrize(("change", "words"), CASES, ids=[" ".join(words) for _, words in CASES])
def test_what_does_not_fit_is_refused(damaged, tmp_path, capsys, change, words):
    path = damaged(change)
    is_weights = "model.safetensors" in words[0]
    refused(tmp_path / "out", capsys, path, *words)
    assert is_weights or not (tmp_path / "out" / "model" / "model.safetensors").exists()


def test_spare_rows_take_our_tokens(damaged, tmp_path):
    """A base tokenizer without chat and reasoning tokens is what upstream's base has."""
    path = damaged(more_words(0))
    download(tmp_path / "out", path)
    assert (tmp_path / "out" / "model" / "tokenizer.json").exists()


def test_s3_weights_are_not_fetched_for_a_base_that_does_not_fit(
    damaged, tmp_path, capsys, nanio, monkeypatch
):
    point_at(nanio, monkeypatch)
    path = damaged(write("tokenizer.json", LFS))
    for file in path.iterdir():
        nanio.client().upload_file(str(file), "bucket", f"base/{file.name}")
    refused(tmp_path / "out", capsys, "s3://bucket/base", "tokenizer.json", "Git LFS pointer")
    assert not (tmp_path / "out" / "model" / "model.safetensors").exists()


def test_a_new_model_has_the_heads_and_the_precision_of_its_shape(tmp_path):
    """Grouped heads, a tied head and bf16, as published models have them."""
    shape = {"d_model": 32, "n_layers": 1, "n_heads": 4, "n_kv_heads": 2, "mlp_hidden_size": 64}
    shape |= {"weight_tying": True, "precision": "bf16"}
    paths = {name: tmp_path / name for name in ("model", "dataset", "metrics")}
    stage("download", {"model": "new", "made": "sums", "shape": shape}, **paths)
    config, spans = checkpoint.inspect(paths["model"])
    assert (config.n_kv_heads, config.weight_tying) == (2, True)
    assert {span.dtype for span in spans.values()} == {torch.bfloat16}
    assert checkpoint.HEAD not in spans
    bad = {"model": "new", "made": "sums", "shape": {**shape, "n_kv_heads": 3}}
    done = stage("download", bad, check=False, **paths)
    assert done.returncode == 2 and "n_kv_heads=3, allowed: null, or a divisor" in done.stderr
