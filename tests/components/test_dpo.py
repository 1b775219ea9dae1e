"""Preference pairs and the reference: drops by reason, the same in any batch, computed once."""

import json

import pytest
import torch

from components.dpo import pairs
from components.dpo.reference import ReferenceMargins
from model import checkpoint, estimators, preference
from model.tokenizer import load_tokenizer
from tests.conftest import stage

GOOD = {"prompt": "1 + 1 =", "chosen": "two", "rejected": "three, I think"}
CONFIG = {
    "steps": 2,
    "batch_size": 4,
    "micro_batch_size": 2,
    "max_length": 64,
    "draws": 2,
    "learning_rate": 1e-3,
    "lora": {"rank": 4, "alpha": 8, "dropout": 0.0},
}


@pytest.fixture(scope="module")
def tokenizer(downloaded):
    return load_tokenizer(downloaded / "model")


def test_unusable_pairs_are_counted_by_reason(tokenizer):
    rows = [
        GOOD,
        {**GOOD, "chosen": " "},
        {**GOOD, "prompt": ""},
        {**GOOD, "rejected": GOOD["chosen"]},
        {**GOOD, "prompt": "1 + " * 50},
    ]
    usable, dropped = pairs.read(rows, tokenizer, 64)
    assert len(usable) == 1
    assert dropped == {"dropped_empty": 2, "dropped_identical": 1, "dropped_too_long": 1}


def test_no_usable_pair_is_refused_with_the_reasons(tokenizer):
    with pytest.raises(ValueError, match="no usable pair; dropped: 0 empty, 1 identical"):
        pairs.read([{**GOOD, "rejected": GOOD["chosen"]}], tokenizer, 64)


def test_an_elbo_does_not_depend_on_the_batch(downloaded, tokenizer, tmp_path):
    """The draws of a pair are its own, and neither its padding nor its neighbours are seen."""
    model = checkpoint.load(downloaded / "model", dtype=torch.float32)
    other = {"prompt": "12 + 34 =", "chosen": "forty-six, of course", "rejected": "7"}
    usable, _ = pairs.read([GOOD, other], tokenizer, 64)
    known = ReferenceMargins(tmp_path / "cache", "base", 0, draws=3)

    def elbo(picked):
        batch = pairs.pad(picked, tokenizer.eos_token_id).tensors
        views = known.views(picked, batch["answer"])
        return preference.elbo(model, batch["tokens"], batch["attention"], views).chunk(2)

    with torch.no_grad():
        chosen, rejected = elbo(usable)
        for number, pair in enumerate(usable):
            alone = elbo([pair])
            assert alone[0].item() == pytest.approx(chosen[number].item(), rel=1e-5)
            assert alone[1].item() == pytest.approx(rejected[number].item(), rel=1e-5)


def test_views_of_a_pair_are_masks_of_its_answers(tokenizer, tmp_path):
    usable, _ = pairs.read([GOOD], tokenizer, 64)
    batch = pairs.pad(usable, tokenizer.eos_token_id).tensors
    views = ReferenceMargins(tmp_path / "cache", draws=8).views(usable, batch["answer"])
    assert len(views) == 8
    assert all(not (view.hidden_BL & ~batch["answer"]).any() for view in views)
    counts = torch.stack([view.hidden_BL.sum(1) for view in views])
    lengths = batch["answer"].sum(1)
    torch.testing.assert_close(
        torch.stack([view.weight_B for view in views]), lengths / (8.0 * counts)
    )
    spread = counts.sort(0).values.diff(dim=0) * 8 - lengths  # stratified: A / 8 apart, rounded
    assert (spread.abs() < 8).all()


def test_margins_are_computed_once_and_kept(tokenizer, tmp_path):
    usable, _ = pairs.read([GOOD, {**GOOD, "chosen": "2"}], tokenizer, 64)
    calls = []

    def compute():
        calls.append(1)
        return torch.tensor([1.5, -2.5])

    first = ReferenceMargins(tmp_path / "cache", "base", draws=2)
    assert first.margins(usable, compute).tolist() == [1.5, -2.5]
    assert first.margins(usable[1:], compute).tolist() == [-2.5]
    again = ReferenceMargins(tmp_path / "cache", "base", draws=2)
    assert again.margins(usable, compute).tolist() == [1.5, -2.5]
    assert len(calls) == 1
    ReferenceMargins(tmp_path / "cache", "another base", draws=2).margins(usable, compute)
    assert len(calls) == 2
    ReferenceMargins(tmp_path / "cache", "base", draws=3).margins(usable, compute)
    assert len(calls) == 3


def test_a_damaged_cache_is_named(tmp_path):
    (tmp_path / "margins-1.jsonl").write_text("{}\n")
    with pytest.raises(ValueError, match=r"margins-1.jsonl:1: not a margin"):
        ReferenceMargins(tmp_path, draws=1)


@pytest.mark.parametrize("half", [b'{"key": "ab', b'{"key": "\xc3', b'{"key": "abc", "margin": 1.'])
def test_what_a_killed_process_did_not_finish_is_passed_over(tokenizer, tmp_path, half):
    usable, _ = pairs.read([GOOD], tokenizer, 64)
    ReferenceMargins(tmp_path, draws=1).margins(usable, lambda: torch.tensor([1.5]))
    (file,) = tmp_path.glob("*.jsonl")
    with file.open("ab") as stream:
        stream.write(half)
    again = ReferenceMargins(tmp_path, draws=1)
    assert again.margins(usable, lambda: torch.tensor([2.0])).tolist() == [1.5]
    other, _ = pairs.read([{**GOOD, "chosen": "2"}], tokenizer, 64)
    again.margins(other, lambda: torch.tensor([2.5]))  # nothing is written behind the half line
    last = ReferenceMargins(tmp_path, draws=1)
    assert last.margins(usable + other, lambda: torch.zeros(2)).tolist() == [1.5, 2.5]


def run(downloaded, out, **changes):
    return stage(
        "dpo",
        {**CONFIG, **changes},
        check=False,
        base=downloaded / "model",
        dataset=downloaded / "dataset",
        trained=out / "trained",
        metrics=out / "metrics",
    )


def lines(out):
    return [json.loads(line) for line in (out / "metrics" / "metrics.jsonl").open()]


def test_cached_reference_gives_the_same_training(downloaded, tmp_path):
    """The second run reads every margin from the first one's directory, and learns the same."""
    cache = str(tmp_path / "cache")
    for name in ("one", "two"):
        done = run(downloaded, tmp_path / name, reference_cache=cache)
        assert done.returncode == 0, done.stderr
    (file,) = (tmp_path / "cache").glob("*.jsonl")
    assert len(file.read_text().splitlines()) == 8
    one, two = lines(tmp_path / "one"), lines(tmp_path / "two")
    for before, after in zip(one, two, strict=True):
        for name in ("loss", "margin", "accuracy"):
            assert after[name] == pytest.approx(before[name], abs=1e-5)
    # before the first update policy and reference are one, so every margin is 0
    assert one[0]["margin"] == pytest.approx(0.0, abs=1e-4)


@pytest.mark.parametrize(
    "change", [{"precision": "bf16"}, {"draws": 3}, {"length_normalized": True}, {"seed": 1}]
)
def test_a_margin_is_known_by_all_that_decides_it(downloaded, tmp_path, change):
    """A run whose reference computes otherwise does not take over what another one found."""
    cache = tmp_path / "cache"
    kept = {"reference_cache": str(cache), "precision": "fp32", "steps": 1}
    for name, changes in (("one", {}), ("two", change)):
        done = run(downloaded, tmp_path / name, **{**kept, **changes})
        assert done.returncode == 0, done.stderr
    assert sum(len(file.read_text().splitlines()) for file in cache.glob("*.jsonl")) == 8


def test_a_margin_is_known_by_its_masks(tokenizer, tmp_path, monkeypatch):
    """Another estimator hides other tokens: what the one before it found is no margin of its."""
    usable, _ = pairs.read([GOOD], tokenizer, 64)
    ReferenceMargins(tmp_path, draws=2).margins(usable, lambda: torch.tensor([1.0]))
    plain = estimators.monte_carlo

    def all_hidden(answer_BL, **given):
        views = plain(answer_BL, **given)
        return [estimators.View(answer_BL, answer_BL, view.weight_B) for view in views]

    monkeypatch.setattr(estimators, "monte_carlo", all_hidden)
    again = ReferenceMargins(tmp_path, draws=2)
    assert again.margins(usable, lambda: torch.tensor([2.0])).tolist() == [2.0]


def test_every_loss_trains(downloaded, tmp_path):
    """Each objective at work, through the command line, with figures of its own."""
    for name, changes in {
        "smoothed": {"label_smoothing": 0.1},
        "ipo": {"loss": "ipo", "length_normalized": True},
        "sft": {"sft_weight": 1.0},
    }.items():
        done = run(downloaded, tmp_path / name, **changes)
        assert done.returncode == 0, done.stderr
        assert [row["step"] for row in lines(tmp_path / name)] == [1, 2]
    assert lines(tmp_path / "smoothed")[0]["loss"] == pytest.approx(0.6931, abs=1e-3)
    assert lines(tmp_path / "ipo")[0]["loss"] == pytest.approx(6.25, abs=1e-2)  # (1 / (2 beta))^2


def test_smoothing_of_ipo_is_refused(downloaded, tmp_path):
    done = run(downloaded, tmp_path, loss="ipo", label_smoothing=0.1)
    assert done.returncode == 2
    assert "label_smoothing=0.1, allowed: 0 with loss='ipo'" in done.stderr
