"""Windows of packed documents: every token once, documents apart, little padding."""

import numpy as np
import pytest

from components.data.token_shards import Shards, ShardWriter
from components.pretrain.packing import Windows
from model.training.draws import Draw

WINDOW = 8192


def places(examples, *these, seed=0, step=0):
    """All places of a step, or some."""
    numbers = these or range(len(examples))
    return Draw(purpose="noise", seed=seed, step=step, examples=examples, places=numbers)


def shards_of(directory, lengths, tokenizer):
    """Documents of these lengths; document n holds 1000 n, 1000 n + 1, ..."""
    writer = ShardWriter(directory, tokenizer)
    for number, length in enumerate(lengths):
        writer.add(np.arange(length) + 1000 * number)
    writer.close()
    return Shards(directory, tokenizer)


@pytest.fixture
def short(tmp_path, tokenizer):
    """Two hundred documents of 1 to 39 tokens, in windows of 16."""
    lengths = np.random.default_rng(0).integers(1, 40, 200)
    shards = shards_of(tmp_path / "shards", lengths, tokenizer)
    return Windows(shards, 16, pad=7, seed=0, random_length=0.0), lengths


def test_every_token_is_in_one_window(short):
    windows, lengths = short
    found = np.concatenate([part for number in range(len(windows)) for part in windows[number]])
    wanted = [np.arange(length) + 1000 * number for number, length in enumerate(lengths)]
    assert np.sort(found).tolist() == np.concatenate(wanted).tolist()
    assert all(sum(map(len, windows[number])) <= 16 for number in range(len(windows)))


def test_only_documents_longer_than_the_window_are_cut(short):
    windows, lengths = short
    parts = [part for number in range(len(windows)) for part in windows[number]]
    assert len(parts) == sum(-(-length // 16) for length in lengths)


def test_a_batch_keeps_documents_apart(short):
    windows, _ = short
    picked = [0, 5, len(windows) - 1]
    batch = windows.collate(places(picked)).tensors
    for row, number in enumerate(picked):
        for place, part in enumerate(windows[number], 1):
            mine = batch["documents"][row] == place
            assert batch["tokens"][row][mine].tolist() == part.tolist()
        padding = batch["documents"][row] == 0
        assert (batch["tokens"][row][padding] == 7).all()
        assert (batch["real"][row] == ~padding).all()
    assert windows.collate(places(picked)).tokens == int(batch["real"].sum())


def mixes():
    """Lengths in tokens as corpora have them: the default sample, web text, and short dialogue."""
    rng = np.random.default_rng(1)
    long = 8096 + rng.lognormal(9.0, 1.0, 900)
    return {
        "the default sample": np.concatenate([long, rng.integers(128, 8096, 100)]),
        "web text": np.clip(rng.lognormal(6.5, 1.2, 3000), 16, 200_000),
        "dialogue": np.clip(rng.lognormal(5.0, 0.6, 5000), 16, 4000),
        "just above the window": np.full(300, WINDOW + 700),
    }


@pytest.mark.parametrize("mix", mixes())
def test_nearly_all_positions_are_useful(mix, tmp_path, tokenizer):
    lengths = mixes()[mix].astype(int)
    windows = Windows(shards_of(tmp_path / "shards", lengths, tokenizer), WINDOW, pad=0, seed=0)
    held = [sum(map(len, windows[number])) for number in range(len(windows))]
    assert sum(held) == lengths.sum()
    assert windows.useful == pytest.approx(sum(held) / (len(held) * WINDOW))
    assert windows.useful >= 0.95


def test_the_seed_decides_the_windows(tmp_path, tokenizer):
    shards = shards_of(tmp_path / "shards", [5, 9, 3, 12, 8, 2, 7] * 10, tokenizer)

    def contents(seed):
        windows = Windows(shards, 16, pad=0, seed=seed)
        return [np.concatenate(windows[number]).tolist() for number in range(len(windows))]

    assert contents(0) == contents(0) != contents(1)


def test_one_row_in_a_hundred_has_a_random_length(tmp_path, tokenizer):
    """Whatever the epoch and the micro-batch: another row at another length in each step."""
    windows = Windows(shards_of(tmp_path / "shards", [64] * 8, tokenizer), 64, pad=0, seed=0)

    def lengths(seed, step):
        rows = [windows.collate(places(range(8), n, seed=seed, step=step)) for n in range(8)]
        whole = windows.collate(places(range(8), seed=seed, step=step))
        found = [row.tokens for row in rows]
        assert all(row.tensors["real"].all() for row in rows)
        assert whole.tensors["real"].sum(1).tolist() == found
        assert sum(row.share for row in rows) == pytest.approx(whole.share) == pytest.approx(1.0)
        return found

    by_step = [lengths(0, step) for step in range(1000)]
    assert by_step[:9] == [lengths(0, step) for step in range(9)]
    assert by_step != [lengths(1, step) for step in range(1000)]
    cut = [length for rows in by_step for length in rows if length < 64]
    assert 0.007 < len(cut) / 8000 < 0.013
    assert min(cut) < 8 and max(cut) > 56
    first = [step for step, rows in enumerate(by_step) if rows[0] < 64]  # one window, many epochs
    assert 2 <= len(first) <= 25


def test_a_micro_batch_counts_by_its_real_tokens(short):
    windows, _ = short
    picked = sorted(range(len(windows)), key=lambda number: windows.lengths[number])[:8]
    total = sum(int(windows.lengths[number]) for number in picked)
    for first in range(0, 8, 2):
        batch = windows.collate(places(picked, first, first + 1))
        assert batch.share == pytest.approx(batch.tokens / total)
