"""How long an answer's canvas has to be: DAEDAL's initial length adjustment (arXiv:2508.00819).

A canvas of masks that is long enough ends in tokens that the model takes for end-of-text. The
canvas starts short and grows while it is not sure of them; one forward pass a step, before any
token is written. The method's second phase, which inserts masks into an answer as it is denoised,
is left out: the sampler's canvas keeps its length, and its caches depend on that.
Shapes: B batch, P prompt, G canvas, V vocabulary.
"""

from dataclasses import dataclass

import torch

from model.llada import LLaDA
from model.options import Checked, check


@dataclass(frozen=True, kw_only=True)
class Growth(Checked):
    """The published settings of the rule."""

    initial: int = 64
    """Tokens of the first canvas."""
    step: int = 8
    """Tokens by which it grows at a time."""
    window: int = 32
    """How many end-of-text tokens the confidence is an average of."""
    threshold: float = 0.5
    """Confidence from which the canvas is long enough."""
    longest: int = 2048
    """Tokens at which it stops growing, sure or not."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("initial", "step", "window"):
            check(name, getattr(self, name), getattr(self, name) >= 1, "1 or more")
        check("threshold", self.threshold, 0 <= self.threshold <= 1, "0 to 1")
        is_longer = self.longest >= self.initial
        check("longest", self.longest, is_longer, f"initial={self.initial} or more")


PUBLISHED = Growth()


def end_confidence(logits_BGV: torch.Tensor, eos: int, window: int) -> torch.Tensor:
    """How sure the model is [B] that the canvas ends in end-of-text, 0 to 1.

    The probabilities of EOS at the last `window` positions where it is the likeliest token, summed
    and divided by `window`: positions that are missing count as 0.
    """
    is_end_BG = logits_BGV.argmax(-1) == eos
    rank_BG = is_end_BG.flip(-1).cumsum(-1).flip(-1)  # 1 at the last such position
    counted_BG = is_end_BG & (rank_BG <= window)
    probability_BG = logits_BGV.float().softmax(-1)[..., eos]
    return probability_BG.where(counted_BG, 0.0).sum(-1) / window


def next_length(length: int, confidence: float, limit: int, growth: Growth = PUBLISHED) -> int:
    """The length of the next canvas; the same length where it need not or cannot grow.

    `limit` is how many tokens the context leaves to an answer.
    """
    if confidence >= growth.threshold:
        return length
    return max(length, min(length + growth.step, growth.longest, limit))


@torch.inference_mode()
def fit(
    model: LLaDA, prompt: list[int], eos: int, *, growth: Growth = PUBLISHED
) -> tuple[int, int]:
    """The length of the canvas for one prompt, and the forward passes that finding it took.

    Raises ValueError where the prompt leaves no room for an answer.
    """
    longest = model.config.max_sequence_length
    limit = longest - len(prompt)
    check("prompt", f"{len(prompt)} tokens", limit > 0, f"fewer than {longest} (the context)")
    length, passes = min(growth.initial, limit), 0
    while True:
        tokens = [*prompt, *[model.config.mask_token_id] * length]
        places_1G = torch.arange(len(prompt), len(tokens), device=model.device)[None]
        states_1GD = model.hidden(
            torch.tensor([tokens], device=model.device), positions_BQ=places_1G
        )
        confidence = end_confidence(model.head(states_1GD), eos, growth.window)
        passes += 1
        longer = next_length(length, confidence.item(), limit, growth)
        if longer == length:
            return length, passes
        length = longer
