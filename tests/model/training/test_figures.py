"""Figures of micro-batches add up to those of their step, whatever the micro-batches."""

import pytest
import torch
from accelerate import Accelerator

from model.training import figures


def part(loss, table, share, tokens):
    """A micro-batch's part of a step."""
    given = {"loss": torch.tensor(loss), "by_ratio": torch.tensor(table, dtype=torch.float64)}
    (gathered,) = figures.gather(figures.weigh(given, share), tokens, Accelerator(cpu=True))
    return gathered


def test_scalars_count_by_their_share_and_tables_as_they_are():
    parts = [
        part(2.0, [[6.0, 0.0], [3.0, 0.0]], 0.25, 10),
        part(4.0, [[2.0, 5.0], [1.0, 2.0]], 0.75, 30),
    ]
    total, tokens = figures.add(parts)
    assert tokens == 40
    assert total["by_ratio"].tolist() == [[8.0, 5.0], [4.0, 2.0]]
    assert figures.record(total) == {"loss": 3.5, "by_ratio": {"0.0": 2.0, "0.5": 2.5}}


def test_a_bucket_that_counts_nothing_is_left_out():
    total, _ = figures.add([part(1.0, [[0.0, 5.0], [0.0, 2.0]], 1.0, 1)])
    assert figures.record(total)["by_ratio"] == {"0.5": 2.5}


def test_parts_keep_names_shapes_and_precision():
    given = part(1 / 3, [[1 / 3, 0.1], [1.0, 2.0]], 1.0, 1).figures
    assert list(given) == ["loss", "by_ratio"]
    assert given["loss"].item() == torch.tensor(1 / 3).item() == pytest.approx(1 / 3)
    assert given["by_ratio"].tolist() == [[1 / 3, 0.1], [1.0, 2.0]]
