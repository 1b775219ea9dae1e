"""How much noise is in a DPO margin: the same budget of passes, with what is shared between models.

The margin of one pair is (policy - reference) of the chosen answer minus that of the rejected one,
each an ELBO of a few draws. VRPO (arXiv:2505.19223, section 3.2) draws timesteps and masks once for
policy and reference; the alternatives draw them apart. The model is small and untrained, the policy
differs from it by an adapter, as in training.
"""

import statistics
from collections.abc import Callable

import torch

from benchmarks.measure import Row
from model import estimators, lora, preference
from model.config import LLaDAConfig
from model.estimators import View
from model.llada import LLaDA

DRAWS, SAMPLES, PROMPT, ANSWER = 8, 100, 16, 32
Noise = Callable[[torch.Tensor, torch.Generator], tuple[list[View], list[View]]]


def rows(device: str) -> list[Row]:
    """Standard deviation of a margin: independent and shared-t draws against shared t and masks."""
    with torch.device(device):
        model, reference = _models()
    variances = {noise.__name__: _variance(model, reference, noise, device) for noise in NOISES}
    ours = variances["shared_t_and_masks"]
    return [
        Row(
            work=f"variance of a DPO margin, {DRAWS} draws: shared timesteps and masks",
            against=name.replace("_", " "),
            unit="nats^2",
            baseline=variances[name],
            ours=ours,
            bar=2,
        )
        for name in ("independent", "shared_t")
    ]


def independent(
    answer_BL: torch.Tensor, generator: torch.Generator
) -> tuple[list[View], list[View]]:
    """Policy and reference draw timesteps and masks of their own."""
    return _draw(answer_BL, generator), _draw(answer_BL, generator)


def shared_t(answer_BL: torch.Tensor, generator: torch.Generator) -> tuple[list[View], list[View]]:
    """The same timesteps, other masks."""
    views = _draw(answer_BL, generator)
    others = []
    for view in views:
        ratio_B = 1 / (DRAWS * view.weight_B)
        draw_BL = torch.rand(answer_BL.shape, generator=generator, device=answer_BL.device)
        hidden_BL = (draw_BL < ratio_B[:, None]) & answer_BL
        others.append(View(hidden_BL, hidden_BL, view.weight_B))
    return views, others


def shared_t_and_masks(
    answer_BL: torch.Tensor, generator: torch.Generator
) -> tuple[list[View], list[View]]:
    """The same timesteps and the same masks."""
    views = _draw(answer_BL, generator)
    return views, views


NOISES: tuple[Noise, ...] = (independent, shared_t, shared_t_and_masks)


def _draw(answer_BL: torch.Tensor, generator: torch.Generator) -> list[View]:
    return estimators.monte_carlo(answer_BL, draws=DRAWS, generator=generator)


def _models() -> tuple[LLaDA, LLaDA]:
    config = LLaDAConfig(
        d_model=128,
        n_heads=4,
        n_layers=4,
        mlp_hidden_size=384,
        vocab_size=384,
        mask_token_id=2,
        eos_token_id=1,
        pad_token_id=1,
    )
    torch.manual_seed(0)
    reference = LLaDA(config).eval()
    policy = LLaDA(config)
    policy.load_state_dict(reference.state_dict())
    lora.attach(policy, rank=8, alpha=16, dropout=0.0, targets=("q_proj", "v_proj", "ff_proj"))
    for name, parameter in policy.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return policy.eval(), reference


@torch.inference_mode()
def _variance(policy: LLaDA, reference: LLaDA, noise: Noise, device: str) -> float:
    """The variance of one pair's margin over fresh noise."""
    generator = torch.Generator(device).manual_seed(1)
    tokens_BL = torch.randint(10, 384, (2, PROMPT + ANSWER), generator=generator, device=device)
    seen_BL = torch.ones_like(tokens_BL, dtype=torch.bool)
    answer_BL = seen_BL.clone()
    answer_BL[:, :PROMPT] = False
    margins = []
    for _ in range(SAMPLES):
        views, reference_views = noise(answer_BL, generator)
        gain_B = preference.elbo(policy, tokens_BL, seen_BL, views)
        gain_B = gain_B - preference.elbo(reference, tokens_BL, seen_BL, reference_views)
        margins.append(float(gain_B[0] - gain_B[1]))
    return statistics.variance(margins)
