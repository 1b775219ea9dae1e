"""A recipe's rehearsal, by the command behind `make rehearse`, and what it changes of a recipe."""

import json
import os
import subprocess
import sys

import pytest

from components import artifact
from components.preflight import memory
from model.training.config import Resumable
from model.training.sizing import Shape
from pipelines import rehearse_recipe
from pipelines.plan_base import Base
from pipelines.recipes import RECIPES
from pipelines.rehearse_recipe import Scale, rehearsed
from tests.conftest import ROOT

NOWHERE = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_DISABLE_TELEMETRY": "1"}
LLADA = Base(Shape(), Shape().parameters, 2 * Shape().parameters, 4096, "published")
ILLADA = memory.PUBLISHED["GSAI-ML/iLLaDA-8B-Base"]


def rehearse(*words):
    return subprocess.run(
        [sys.executable, "-m", "pipelines.rehearse", *words],
        cwd=ROOT,
        env={**os.environ, **NOWHERE},
        capture_output=True,
        text=True,
        check=False,
        timeout=800,
    )


def test_8b_on_two_cores(tmp_path):
    """Every stage of the real recipe, one of them killed, and a table of what each took."""
    done = rehearse("llada_8b", "--scale", "0.02", "--runs", str(tmp_path))
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (run,) = tmp_path.iterdir()
    page = (run / "rehearsal.md").read_text()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines()[4:]]
    names = [(row[0], row[5]) for row in rows[2:]]
    assert names[:3] == [("preflight", ""), ("download", ""), ("pretrain", "")]
    killed = names.index(("sft", "killed after step 1"))
    assert names[killed + 1] == ("sft", "went on from step 1")
    assert [names.count((stage, "")) for stage in ("evaluate", "merge", "release")] == [3, 1, 1]
    by_name = {row[0]: row for row in rows[2:]}
    for stage in ("pretrain", "sft", "grpo", "evaluate"):
        assert float(by_name[stage][3].replace(",", "")) > 0, stage
    assert all(float(row[2]) > 0 for row in rows[2:])
    assert f"{run / 'rehearsal.md'}" in done.stdout
    (release,) = run.glob("artifacts/*/release*/release")
    lineage = [entry["stage"] for entry in artifact.verify(release)["lineage"]]
    assert {"download", "pretrain", "sft", "grpo"} <= {*lineage}
    (log,) = run.glob("artifacts/*/grpo/metrics/metrics.jsonl")
    records = [json.loads(line) for line in log.read_text().splitlines()]
    assert [record["step"] for record in records] == [1, 2]
    assert all(record["gradient_norm"] > 0 for record in records), "rewards differ, so it learns"
    results = [json.loads(file.read_text()) for file in run.glob("artifacts/*/*/*/results.json")]
    assert [result["throughput"]["answers"] for result in results] == [10, 10, 10]


@pytest.mark.parametrize("scale", [1.0, 0.1, 0.01])
@pytest.mark.parametrize("preference", ["dpo", "grpo"])
@pytest.mark.parametrize("recipe", sorted(RECIPES))
def test_every_recipe_can_be_rehearsed(tmp_path, recipe, preference, scale):
    """Configurations check themselves; what is not changed is the recipe's own."""
    own = RECIPES[recipe](preference=preference)
    small = rehearsed(own, LLADA, scale, tmp_path, "http://127.0.0.1:9/v1")
    for name, config in vars(small).items():
        if isinstance(config, Resumable):
            assert config.steps == 2 and config.checkpoint_steps == 1
            assert config.precision == getattr(own, name).precision
            assert (config.lora is None) == (getattr(own, name).lora is None)
    assert small.evaluate.limit == 10 and small.evaluate.cache == own.evaluate.cache
    assert small.download.model == "new" and small.preference == preference
    assert small.release.accuracy == 0


@pytest.mark.parametrize("shape", [Shape(), ILLADA])
def test_the_shape_is_the_base_s_own(shape):
    base = Base(shape, shape.parameters, 2 * shape.parameters, 4096, "published")
    whole = rehearse_recipe.shape(base, Scale(1))
    assert Shape.read(vars(whole) | {"vocab_size": whole.vocabulary}) == shape
    assert whole.precision == "bf16" and whole.context == 4096
    tenth = Shape.read(vars(rehearse_recipe.shape(base, Scale(0.1))) | {"vocab_size": 12646})
    assert tenth.width == 3 * 128 and tenth.layers == 3 and tenth.tied == shape.tied


@pytest.mark.parametrize("scale", ["2", "nan"])
def test_scales_that_mean_nothing(tmp_path, scale):
    done = rehearse("tiny", f"--scale={scale}", "--runs", str(tmp_path / "runs"))
    assert done.returncode == 2
    assert done.stderr == f"rehearse: error: SCALE={scale!r}, allowed: 0.01 to 1\n"
    assert not (tmp_path / "runs").exists()
