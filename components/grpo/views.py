"""The views under which the answers of a batch are scored, by the configuration's estimator."""

import torch

from components.grpo.config import GrpoConfig
from components.grpo.rollouts import Rollouts
from model import estimators
from model.estimators import View


def draw_views(rollouts: Rollouts, config: GrpoConfig, generator: torch.Generator) -> list[View]:
    """Views of every answer in the batch, before it is cut into micro-batches."""
    window_BL, answer_BL = rollouts.window_BL, rollouts.answer_BL
    if config.estimator == "complementary":
        return estimators.complementary(window_BL, answer_BL, generator=generator)
    if config.estimator == "elbo":
        return estimators.quadrature(
            window_BL, answer_BL, points=config.passes, generator=generator
        )
    if config.estimator == "trajectory":
        return estimators.trajectory(
            window_BL,
            answer_BL,
            rollouts.order_BL,
            slice_tokens=config.slice_tokens,
            passes=config.passes,
            generator=generator,
        )
    prompt_BL = rollouts.attention_BL & ~window_BL
    return estimators.one_pass(
        window_BL, answer_BL, prompt_BL, prompt_mask=config.prompt_mask, generator=generator
    )
