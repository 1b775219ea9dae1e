"""The measurement of the first run goes on where it was stopped, and says what it should."""

from dataclasses import replace

import pytest

from benchmarks import first_run
from benchmarks.first_run import VARIANTS, Figures, Run, Variant, table
from components.artifact import RECORD
from components.download.config import Shape

SMALL = Shape(d_model=32, n_layers=1, n_heads=2, mlp_hidden_size=64)


class Small(Variant):
    """A model that is made in a moment."""

    def recipe(self):
        recipe = super().recipe()
        return replace(recipe, download=replace(recipe.download, shape=SMALL))


def test_nine_models_differ_in_seed_or_arithmetic():
    assert len({(v.seed, *v.environment.items(), v.precision) for v in VARIANTS}) == 9
    assert [v.seed for v in VARIANTS[:5]] == [0, 1, 2, 3, 4]
    last = VARIANTS[-1].recipe()
    assert {last.pretrain.precision, last.sft.precision, last.grpo.precision} == {"fp32"}


def test_variants_that_ask_for_the_same_are_one_run():
    """The recipe computes in fp32 anyway."""
    assert first_run.same(VARIANTS[-1]) is VARIANTS[0]
    assert all(first_run.same(variant) is variant for variant in VARIANTS[:-1])


def test_a_stage_runs_once_and_again_where_it_was_cut_off(tmp_path, monkeypatch):
    monkeypatch.setattr(first_run, "RUNS", tmp_path)
    run = Run(Small("seed 7, small", seed=7))
    outputs = dict(model="model", dataset="dataset", metrics="metrics")
    made = run.stage("download", {}, **outputs)
    record = made["model"] / RECORD
    first = record.stat().st_mtime_ns
    assert made["model"].parent == tmp_path / "seed-7-small"
    assert run.stage("download", {}, **outputs) == made
    assert record.stat().st_mtime_ns == first
    run.configs["download"]["shape"]["n_heads"] = 3
    (made["metrics"] / RECORD).unlink()
    with pytest.raises(Exception, match="exit status 2"):
        run.stage("download", {}, **outputs)
    assert "multiple of 6" in (tmp_path / "seed-7-small" / "model.log").read_text()


@pytest.mark.parametrize(
    ("figures", "is_met"),
    [
        ((1.0, 60.0, 70.0, 70.0), True),
        ((0.0, 60.0, 90.0, 90.0), False),
        ((1.0, 44.8, 90.0, 90.0), False),
        ((1.0, 75.2, 90.0, 90.0), False),
        ((1.0, 60.0, 69.8, 90.0), False),
        ((1.0, 60.0, 90.0, 69.8), False),
    ],
)
def test_what_a_run_should_show(figures, is_met):
    assert Figures(*figures).is_met is is_met


def test_the_table_has_every_figure_and_its_spread():
    found = [Figures(1.0 + n, 60.0 + n, 90.0, 91.0) for n in range(9)]
    text = table(found)
    assert text.count("| met |") == 9
    assert "| seed 3 | 4.0 | 63.0 | 90.0 | 91.0 | met |" in text
    assert "| mean | 5.0 | 64.0 | 90.0 | 91.0 | |" in text
    assert "| standard deviation | 2.7 | 2.7 | 0.0 | 0.0 | |" in text
