"""How a step is cut into micro-batches changes nothing: loss, validation and weights stay."""

import json

import pytest
import torch
from safetensors.torch import load_file

from components.sft.dialogues import pad_dialogues
from model.tokenizer import encode_chat, load_tokenizer
from tests.components.corpora import download, write_jsonl
from tests.conftest import stage

COMMON = {"steps": 5, "batch_size": 8, "learning_rate": 1e-3, "precision": "fp32"}
COMMON |= {"validation_examples": 11, "validation_steps": 2}
CONFIGS = {
    "sft": {"max_length": 64, "examples": 60},
    "sft drawn": {"max_length": 64, "examples": 60, "padding": "drawn"},
    "pretrain": {"window": 48},
    "dpo": {
        "steps": 3,
        "max_length": 64,
        "draws": 2,
        "sft_weight": 0.5,
        "lora": {"rank": 4, "dropout": 0.0},
    },
}
FIGURES = ("loss", "validation_loss", "gradient_norm", "margin")


def run(root, downloaded, name, check=True, dataset=None, **changes):
    """(records, weights) of a run."""
    done = stage(
        name.split()[0],
        {**COMMON, **CONFIGS[name], **changes},
        check=check,
        base=downloaded / "model",
        dataset=dataset or downloaded / "dataset",
        trained=root / "trained",
        metrics=root / "metrics",
    )
    if not check:
        return done
    (file,) = (root / "trained").glob("*.safetensors")
    lines = (root / "metrics" / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines], load_file(file)


@pytest.mark.parametrize("name", CONFIGS)
def test_micro_batches_of_any_size_train_alike(downloaded, tmp_path, name):
    records, weights = run(tmp_path / "8", downloaded, name, micro_batch_size=8)
    for size in (1, 2, 4):
        theirs, tensors = run(tmp_path / str(size), downloaded, name, micro_batch_size=size)
        for ours, other in zip(records, theirs, strict=True):
            found = {figure: ours[figure] for figure in FIGURES if figure in ours}
            wanted = {figure: other[figure] for figure in FIGURES if figure in other}
            assert found == pytest.approx(wanted, rel=1e-4, abs=1e-5)
        assert all((weights[key] - tensors[key]).abs().max() < 2e-4 for key in weights)
    assert sum("validation_loss" in row for row in records) == (len(records) + 1) // 2


@pytest.fixture(scope="module")
def tokenizer(downloaded):
    return load_tokenizer(downloaded / "model")


def rows_of(tokenizer, *lengths):
    """A prompt and an answer, in tokens: every digit is one."""
    for prompt, answer in lengths:
        extra = len(encode_chat(tokenizer, [{"role": "user", "content": "1"}])) - 1
        yield {"prompt": "1" * (prompt - extra), "completion": "2" * (answer - 1)}


@pytest.fixture
def sft_on(downloaded, tokenizer, tmp_path):
    """Runs SFT on rows of these lengths; the lengths of its batches."""

    def start(*lengths, **changes):
        root = tmp_path / f"run-{len(list(tmp_path.iterdir()))}"
        root.mkdir()
        file = write_jsonl(root / "rows.jsonl", rows_of(tokenizer, *lengths))
        download(root, str(downloaded / "model"), sft=[{"location": file}])
        config = {"batch_size": 2, "steps": 1, "validation_examples": 0, **changes}
        config = {"micro_batch_size": 1, **config}
        records, _ = run(root / "run", downloaded, "sft", dataset=root / "dataset", **config)
        return [record["tokens"] / config["batch_size"] for record in records]

    return start


@pytest.mark.parametrize("micro", [1, 2])
def test_a_batch_is_as_long_as_its_longest_row(sft_on, micro):
    """Not as the longest prompt with the longest answer; one EOS more only where it fits."""
    mixed = (100, 20), (20, 100)
    options = {"micro_batch_size": micro, "padding": "batch"}
    assert sft_on(*mixed, max_length=128, **options) == [121]
    assert sft_on(*mixed, max_length=120, **options) == [120]
    assert sft_on((108, 20), (20, 108), max_length=128, **options) == [128]  # the whole context
    assert sft_on((20, 5), (20, 20), max_length=128, **options) == [41]


def test_padding_up_to_max_length_or_drawn(sft_on):
    rows = (20, 5), (20, 10)
    assert sft_on(*rows, padding="max_length") == [64]
    drawn = sft_on(*rows, padding="drawn", steps=60)
    assert min(drawn) < 37 and max(drawn) > 58 and len(set(drawn)) > 15
    assert all(31 <= length <= 64 for length in drawn)


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [("sft", "max_length", 129), ("dpo", "max_length", 4096), ("pretrain", "window", 129)],
)
def test_longer_than_the_context_is_refused_at_once(downloaded, tmp_path, name, field, value):
    done = run(tmp_path, downloaded, name, check=False, **{"micro_batch_size": 8, field: value})
    assert done.returncode == 2
    assert f"{field}={value}, allowed: up to 128, the model's context" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "trained").iterdir())


def test_padding_is_learnt_and_nothing_is_unseen():
    """[prompt][answer][EOS ...]: every row in one run, all behind the prompt is the answer."""
    batch = pad_dialogues([([5, 6], [7]), ([5], [8, 9, 7])], 1, 6)
    assert batch.tensors["tokens"].tolist() == [[5, 6, 7, 1, 1, 1], [5, 8, 9, 7, 1, 1]]
    assert torch.equal(
        batch.tensors["answer"], torch.tensor([[0, 0, 1, 1, 1, 1], [0, 1, 1, 1, 1, 1]]) > 0
    )
    assert batch.tokens == 12
    with pytest.raises(ValueError, match="length=3, allowed: 4 or more"):
        pad_dialogues([([5], [8, 9, 7])], 1, 3)
