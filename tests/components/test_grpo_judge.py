"""A judge in the grpo stage, through its command line: real, flawed, alone, down."""

import itertools
import json

import pytest

from components.data import dataset as data
from tests.components.rewards.judge_endpoint import Endpoint
from tests.components.test_grpo import CONFIG
from tests.conftest import stage

FEW = {**CONFIG, "steps": 1, "batch_size": 8, "inner_updates": 1}
PLAIN = {"model": "m", "retries": 0, "timeout": 60.0}


def grpo(base, dataset, out, config, check=True):
    return stage(
        "grpo",
        config,
        check=check,
        base=base,
        dataset=dataset,
        trained=out / "trained",
        metrics=out / "metrics",
    )


def figures(out):
    return [json.loads(line) for line in (out / "metrics" / "metrics.jsonl").open()]


def in_turn(failing):
    """Scores 0, 1, 2, ... in the order of the names; prose for the calls whose number is given."""

    def answer(number, body):
        if number in failing:
            return 200, "They are all fine answers, each in its own way."
        names = body["response_format"]["json_schema"]["schema"]["required"]
        return 200, json.dumps(dict(zip(names, itertools.count())))

    return answer


def test_a_real_model_judges_a_step(taught, downloaded, tmp_path, real_judge):
    judge = {**PLAIN, "url": real_judge, "timeout": 600.0, "concurrency": 2}
    grpo(taught, downloaded / "dataset", tmp_path, {**FEW, "judge": judge})
    (row,) = figures(tmp_path)
    assert row["judge_failed"] == 0
    assert 0 <= row["judged"] <= 1


def test_the_judge_alone_makes_the_spread(taught, downloaded, tmp_path):
    """Where hardly an answer is right, the judge's scores are what is learnt from."""
    with Endpoint(in_turn(failing=())) as endpoint:
        judge = {**PLAIN, "url": endpoint.url}
        config = {**FEW, "rewards": [["verified", 1.0]]}
        grpo(taught, downloaded / "dataset", tmp_path, {**config, "judge": judge})
        assert len(endpoint.bodies) == 2
    (row,) = figures(tmp_path)
    assert row["groups_without_spread"] == 0
    assert row["gradient_norm"] > 0


def test_a_group_without_verdict_is_skipped_and_counted(taught, downloaded, tmp_path):
    with Endpoint(in_turn(failing=(1, 2))) as endpoint:
        judge = {**PLAIN, "url": endpoint.url, "max_failed_share": 0.5}
        grpo(taught, downloaded / "dataset", tmp_path, {**FEW, "steps": 2, "judge": judge})
    first, second = figures(tmp_path)
    assert (first["judge_failed"], second["judge_failed"]) == (2, 2)
    assert "judged" not in first and 0 <= second["judged"] <= 1
    assert first["gradient_norm"] == 0, "no group of the first step was judged"
    assert second["gradient_norm"] > 0


def test_a_judge_that_is_down_ends_the_stage(taught, downloaded, tmp_path):
    judge = {**PLAIN, "url": "http://127.0.0.1:9/v1", "max_failed_share": 0.05}
    config = {**FEW, "judge": judge}
    done = grpo(taught, downloaded / "dataset", tmp_path, config, check=False)
    assert done.returncode == 2
    line = done.stderr.strip().splitlines()[-1]
    assert "judge 'm' at http://127.0.0.1:9/v1: 2 of 2 calls failed" in line
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "trained" / ".artifact.json").exists()


@pytest.mark.parametrize("left", [1, 0])
def test_problems_beyond_the_context(taught, downloaded, tmp_path, left):
    """One that leaves no room for an answer is counted; none left is refused."""
    (tmp_path / "data").mkdir()
    rows = data.read(downloaded / "dataset", "problems")[:2]
    rows[0]["prompt"] *= 40
    if not left:
        rows = rows[:1]
    data.write(tmp_path / "data", "problems", rows)
    made = tmp_path / "dataset"
    problems = [{"location": str(tmp_path / "data" / "problems.jsonl")}]
    source = {"model": str(downloaded / "model"), "problems": problems}
    stage("download", source, model=tmp_path / "m", dataset=made, metrics=tmp_path / "got")
    config = {**FEW, "batch_size": 4, "minibatch": 4}
    done = grpo(taught, made, tmp_path, config, check=False)
    if left:
        assert done.returncode == 0, done.stderr
        summary = json.loads((tmp_path / "trained" / ".artifact.json").read_text())["summary"]
        assert (summary["problems"], summary["too_long"]) == (1, 1)
    else:
        assert done.returncode == 2
        assert "gen_length=16: no problem leaves room" in done.stderr
