"""Steps whose loss or gradient is not finite: skipped and counted; three in a row end the stage."""

import dataclasses
import math

import pytest

from model import diffusion
from tests.components.forked import finish
from tests.components.session.runs import FULL, Runs, curve
from tests.components.session.test_resume import straight  # noqa: F401

CONFIG = {**FULL, "steps": 8, "batch_size": 4, "micro_batch_size": 4}


@pytest.fixture
def runs(tmp_path, downloaded):
    return Runs(tmp_path, downloaded)


def poison(calls, factor):
    """Multiplies the loss of some calls, as an overflow would."""
    right, made = diffusion.denoise, []

    def denoise(*given, **options):
        made.append(None)
        value = right(*given, **options)
        if len(made) not in calls:
            return value
        return dataclasses.replace(value, weighted_BL=value.weighted_BL * factor)

    diffusion.denoise = denoise


def one():
    poison({3}, math.nan)


def apart():
    poison({2, 3, 5, 6, 8}, math.inf)


def gradient():
    """A finite loss whose gradient overflows."""
    right, made = diffusion.denoise, []

    def denoise(*given, **options):
        made.append(None)
        value = right(*given, **options)
        if len(made) == 3:
            value.weighted_BL.register_hook(lambda grad: grad * math.inf)
        return value

    diffusion.denoise = denoise


def three():
    poison({4, 5, 6}, math.nan)


@pytest.mark.parametrize(("patch", "skipped"), [(one, [3]), (apart, [2, 3, 5, 6, 8])])
def test_skipped_and_counted(runs, patch, skipped):
    finish(runs.start(CONFIG, patch=patch), runs.output)
    records = runs.records()
    assert [row["step"] for row in records] == list(range(1, 9))
    assert [row["step"] for row in records if "loss" not in row] == skipped
    assert records[-1]["skipped_steps"] == len(skipped)
    assert all(math.isfinite(row["loss"]) for row in records if "loss" in row)


def test_skipped_step_changes_no_weight(runs):
    """With a learning rate that falls by the step, a run with step 3 skipped repeats exactly."""
    finish(runs.start(CONFIG, patch=gradient), runs.output)
    first, records = runs.weights(), curve(runs.records())
    assert "loss" not in records[2] and records[-1]["skipped_steps"] == 1
    finish(runs.start(CONFIG, patch=one), runs.output)
    assert runs.weights() == first and curve(runs.records()) == records


def test_three_in_a_row_end_the_stage(runs):
    text = finish(runs.start(CONFIG, patch=three), runs.output, code=1)
    (line,) = [line for line in text.splitlines() if ": error: " in line]
    assert "steps 4 to 6" in line and "Traceback" not in text
    assert line.count("[") == 4 and len(line.split("[[")[1].split("]")[0].split(",")) == 4
    assert len(runs.records()) == 6
    assert not list((runs.place / "trained").iterdir())
