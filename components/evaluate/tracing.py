"""How the first answers came about: the tokens after every pass."""

from typing import Any

import torch

from components.evaluate import forms
from components.evaluate.harness import DiffusionLM
from components.evaluate.task import sample
from model import sampler


def trace(lm: DiffusionLM, problem: dict[str, Any]) -> dict[str, Any]:
    """A `sample` with `passes`: after each pass the answer's tokens as texts, None if masked."""
    prompt = lm.encode(problem)
    prompt_BP = torch.tensor([prompt], device=lm.model.device)
    passes = [[None] * lm.config.gen_length]
    answer: list[int] = []
    for generation in sampler.stream(lm.model, prompt_BP, **lm.options()):
        answer = generation.tokens_BL[0, len(prompt) :].tolist()
        passes.append([_text(lm.tokenizer, token) for token in answer])
    (response,) = lm.tokenizer.batch_decode([sampler.before_stop(answer, lm.stops)])
    correct = forms.is_right(response, problem, lm.config.form)
    return sample(problem, response, correct, lm.config.form) | {"passes": passes}


def _text(tokenizer: Any, token: int) -> Any:
    return None if token == tokenizer.mask_token_id else tokenizer.decode([token])
