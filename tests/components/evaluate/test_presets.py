"""Presets: every one is a valid evaluation of a task that lm_eval has; published figures."""

import dataclasses

import pytest
from lm_eval.tasks import TaskManager

from components import coerce
from components.evaluate import published
from components.evaluate.config import EvaluateConfig
from components.evaluate.presets import PROTOCOLS


@pytest.mark.slow
def test_every_preset_names_a_task_of_lm_eval():
    known = set(TaskManager().all_tasks)
    names = {name for p in PROTOCOLS.values() for name in p.fields["tasks"]}
    assert names - known == set()


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_preset_is_a_configuration_and_its_record_gives_the_same(name):
    config = coerce.build(EvaluateConfig, {"preset": name})
    for field, value in PROTOCOLS[name].fields.items():
        assert getattr(config, field) == value
    assert coerce.build(EvaluateConfig, dataclasses.asdict(config)) == config
    assert 0 < PROTOCOLS[name].score < 1


def test_what_is_set_by_hand_wins_and_is_said():
    values = {"preset": "llada-instruct-gsm8k-semi", "gen_length": 128, "batch_size": 3}
    config = coerce.build(EvaluateConfig, values)
    assert (config.gen_length, config.block_length, config.batch_size) == (128, 8, 3)
    comparison = published.compare(config, 0.8, 1319)
    assert comparison["departures"] == ["gen_length=128 in place of 256"]
    assert comparison["is_noise"] is None
    assert "not comparable: gen_length=128 in place of 256" in published.verdict(comparison)


@pytest.mark.parametrize(("score", "is_noise"), [(0.80, True), (0.77, True), (0.70, False)])
def test_a_difference_is_noise_within_its_error(score, is_noise):
    """1319 problems: at 0.789 and 0.8 the standard error of the difference is 1.57 points."""
    config = coerce.build(EvaluateConfig, {"preset": "llada-instruct-gsm8k-semi"})
    comparison = published.compare(config, score, 1319)
    assert comparison["published"] == 0.789 and comparison["is_noise"] is is_noise
    assert comparison["standard_error"] == pytest.approx(0.0157, abs=0.0015)
    assert ("more than noise" in published.verdict(comparison)) is not is_noise


def test_without_a_preset_there_is_nothing_to_compare_with():
    assert published.compare(EvaluateConfig(), 0.5, 10) is None
