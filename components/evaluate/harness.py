"""A LLaDA model as an `LM` of lm_eval: generation by denoising, likelihood by Monte Carlo.

lm_eval brings the requests, the metrics and the bookkeeping; this module answers the requests.
"""

import time
from collections.abc import Mapping
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from components.evaluate import forms
from components.evaluate.config import EvaluateConfig
from model import diffusion, sampler
from model.llada import LLaDA
from model.tokenizer import pad_left, stop_tokens


class DiffusionLM(LM):
    """Greedy block-wise denoising, batched over prompts of different lengths.

    `passes` (forward passes, summed over answers), `tokens`, `answers` and `seconds` count all that
    was generated.
    """

    def __init__(
        self, model: LLaDA, tokenizer: PreTrainedTokenizerBase, config: EvaluateConfig
    ) -> None:
        super().__init__()
        self.model, self.tokenizer, self.config = model, tokenizer, config
        self.stops = stop_tokens(tokenizer)
        self.passes, self.tokens, self.answers, self.seconds = 0, 0, 0, 0.0

    def encode(self, problem: Mapping[str, Any]) -> list[int]:
        """Token ids of a problem's prompt, in the form of this evaluation."""
        return forms.tokens(self.tokenizer, problem, self.config.form)

    def too_long(self, prompt: list[int]) -> str | None:
        """Why the context has no room for a prompt and its answer, or None if it has."""
        longest = self.model.config.max_sequence_length
        if len(prompt) + self.config.gen_length <= longest:
            return None
        return (
            f"prompt of {len(prompt)} tokens + gen_length={self.config.gen_length}, "
            f"allowed: at most {longest} (the context)"
        )

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """The answers with their delimiters, cut at the end of the turn and at stop strings.

        Prompts are encoded from the requests' rows. The context that lm_eval has joined into one
        text cannot be used: it does not tell control tokens from text that looks like them. The
        answer to a problem that leaves no room for one is empty.
        """
        prompts = [self.encode(request.doc) for request in requests]
        fitting = [index for index, prompt in enumerate(prompts) if not self.too_long(prompt)]
        # Prompts of similar length share a batch, which saves padding.
        order = sorted(fitting, key=lambda index: len(prompts[index]))
        answers = [""] * len(requests)
        size = self.config.batch_size
        with tqdm(total=len(order), desc="generate", unit="problem", disable=None) as bar:
            for start in range(0, len(order), size):
                batch = order[start : start + size]
                texts = self._generate([prompts[index] for index in batch])
                for index, text in zip(batch, texts, strict=True):
                    answers[index] = _cut(text, requests[index].args[1].get("until") or [])
                bar.update(len(batch))
        return answers

    def loglikelihood(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """The Monte Carlo bound of each continuation's log-likelihood in nats.

        The second value, whether greedy decoding gives the continuation, is always False.
        """
        pairs = [(request.args[0], request.args[1]) for request in requests]
        return [(value, False) for value in self._likelihoods(pairs)]

    def loglikelihood_rolling(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        """The Monte Carlo bound of each whole text's log-likelihood in nats."""
        return self._likelihoods([("", request.args[0]) for request in requests])

    def options(self) -> dict:
        """The sampler's options for this evaluation."""
        return {
            "gen_length": self.config.gen_length,
            "block_length": self.config.block_length,
            "threshold": self.config.threshold,
            "cache": self.config.cache,
            "stop_tokens": self.stops,
        }

    def _generate(self, prompts: list[list[int]]) -> list[str]:
        started = time.perf_counter()
        prompt_BP, seen_BP = (
            rows.to(self.model.device) for rows in pad_left(self.tokenizer, prompts)
        )
        result = sampler.generate(
            self.model, prompt_BP, attention_mask_BP=seen_BP, **self.options()
        )
        answers = [
            sampler.before_stop(row, self.stops)
            for row in result.tokens_BL[:, prompt_BP.shape[1] :].tolist()
        ]
        self.passes += result.forward_passes * len(prompts)
        self.tokens += sum(map(len, answers))
        self.answers += len(prompts)
        self.seconds += time.perf_counter() - started
        return self.tokenizer.batch_decode(answers)

    def _likelihoods(self, pairs: list[tuple[str, str]]) -> list[float]:
        encoded = [
            (
                torch.tensor(forms.plain(self.tokenizer, context), dtype=torch.long),
                torch.tensor(forms.plain(self.tokenizer, text)),
            )
            for context, text in pairs
        ]
        with tqdm(total=len(pairs), desc="likelihood", unit="answer", disable=None) as bar:
            return diffusion.log_likelihoods(
                self.model, encoded, seed=self.config.seed, progress=bar.update
            )


def _cut(text: str, until: list[str] | str) -> str:
    """The text before the first of the stop strings."""
    for stop in [until] if isinstance(until, str) else until:
        text = text.split(stop)[0] if stop else text
    return text
