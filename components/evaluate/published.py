"""Is a score of ours the published one, up to noise?"""

import dataclasses
from typing import Any

from components.drawing import QUANTILE
from components.evaluate.config import EvaluateConfig
from components.evaluate.presets import PROTOCOLS

# Fields that do not change what is measured, only how fast and with which luck.
FREE = {
    *("preset", "batch_size", "batch_tokens", "limit", "allow_code", "reward_workers", "traces"),
    *("seed", "checkpoint_uri", "task_files"),
}


def compare(config: EvaluateConfig, score: float, problems: int) -> dict[str, Any] | None:
    """The published figure that a preset's score is to be compared with, and a verdict.

    `is_noise` says whether the difference is within 1.96 standard errors. Both scores count as
    binomial over `problems`: the published one was measured on the same test, but which problems
    it had right is not known. It is None where the configuration departs from the protocol, by the
    fields in `departures`, as such a score is of something else. None without a preset.
    """
    if config.preset is None:
        return None
    protocol = PROTOCOLS[config.preset]
    variance = sum(share * (1 - share) for share in (score, protocol.score)) / problems
    difference, error = score - protocol.score, variance**0.5
    departures = _departures(config)
    return {
        "preset": config.preset,
        "published": protocol.score,
        "prompts": protocol.prompts,
        "difference": difference,
        "standard_error": error,
        "departures": departures,
        "is_noise": None if departures else abs(difference) <= QUANTILE * error,
    }


def _departures(config: EvaluateConfig) -> list[str]:
    """The fields that differ from the protocol's, each with its value and the protocol's."""
    assert config.preset is not None
    expected = dataclasses.asdict(EvaluateConfig()) | dict(PROTOCOLS[config.preset].fields)
    return [
        f"{name}={value!r} in place of {expected[name]!r}"
        for name, value in dataclasses.asdict(config).items()
        if name not in FREE and value != expected[name]
    ]


def verdict(comparison: dict[str, Any]) -> str:
    """A sentence for people."""
    figures = (
        f"published: {100 * comparison['published']:.1f} ({comparison['preset']}, prompts of "
        f"{comparison['prompts']}); difference {100 * comparison['difference']:+.1f} "
        f"with a standard error of {100 * comparison['standard_error']:.1f}"
    )
    if comparison["departures"]:
        return f"{figures}; not comparable: {', '.join(comparison['departures'])}"
    return f"{figures}: {'noise' if comparison['is_noise'] else 'more than noise'}"
