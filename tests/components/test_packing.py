"""Windows of packed documents: every token once, documents apart, little padding."""

import numpy as np
import pytest

from components.packing import Windows
from components.shards import Shards, ShardWriter

WINDOW = 8192


def shards_of(directory, lengths, words):
    """Documents of these lengths; document n holds 1000 n, 1000 n + 1, ..."""
    writer = ShardWriter(directory, words)
    for number, length in enumerate(lengths):
        writer.add(np.arange(length) + 1000 * number)
    writer.close()
    return Shards(directory, words)


@pytest.fixture
def short(tmp_path, words):
    """Two hundred documents of 1 to 39 tokens, in windows of 16."""
    lengths = np.random.default_rng(0).integers(1, 40, 200)
    shards = shards_of(tmp_path / "shards", lengths, words)
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
    batch = windows.collate(picked).tensors
    for row, number in enumerate(picked):
        for place, part in enumerate(windows[number], 1):
            mine = batch["documents"][row] == place
            assert batch["tokens"][row][mine].tolist() == part.tolist()
        padding = batch["documents"][row] == 0
        assert (batch["tokens"][row][padding] == 7).all()
        assert (batch["real"][row] == ~padding).all()
    assert windows.collate(picked).tokens == int(batch["real"].sum())


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
def test_nearly_all_positions_are_useful(mix, tmp_path, words):
    lengths = mixes()[mix].astype(int)
    windows = Windows(shards_of(tmp_path / "shards", lengths, words), WINDOW, pad=0, seed=0)
    held = [sum(map(len, windows[number])) for number in range(len(windows))]
    assert sum(held) == lengths.sum()
    assert windows.useful == pytest.approx(sum(held) / (len(held) * WINDOW))
    assert windows.useful >= 0.95


def test_the_seed_decides_the_windows(tmp_path, words):
    shards = shards_of(tmp_path / "shards", [5, 9, 3, 12, 8, 2, 7] * 10, words)

    def contents(seed):
        windows = Windows(shards, 16, pad=0, seed=seed)
        return [np.concatenate(windows[number]).tolist() for number in range(len(windows))]

    assert contents(0) == contents(0) != contents(1)


def test_one_batch_in_a_hundred_has_a_random_length(tmp_path, words):
    shards = shards_of(tmp_path / "shards", [64] * 8, words)

    def lengths(seed):
        windows = Windows(shards, 64, pad=0, seed=seed)
        picked = [[one, two, three] for one in range(8) for two in range(8) for three in range(8)]
        batches = [windows.collate(numbers) for numbers in picked * 2]
        assert all(batch.tokens == batch.tensors["tokens"].numel() for batch in batches)
        return [batch.tensors["tokens"].shape[1] for batch in batches]

    found = [lengths(seed) for seed in range(4)]
    assert found[0] == lengths(0) and found[0][:512] == found[0][512:] and found[0] != found[1]
    cut = [length for batch in found for length in batch[:512] if length < 64]
    assert 0.005 < len(cut) / 2048 < 0.015
    assert min(cut) < 24 and max(cut) > 40
