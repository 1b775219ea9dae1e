"""A LLaDA model as an `LM` of lm_eval: generation by denoising, likelihood by Monte Carlo.

lm_eval brings the tasks, the metrics and the bookkeeping; here is only what asks the model.
"""

import time

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from components.evaluate.config import EvaluateConfig
from model import diffusion, sampler, tokenizer
from model.llada import LLaDA


class Dialogue(str):
    """A dialogue as text, with the messages that say which of its control tokens are text."""

    messages: list[dict[str, str]]


class DiffusionLM(LM):
    """Greedy block-wise denoising, batched over prompts of different lengths."""

    def __init__(
        self, model: LLaDA, words: PreTrainedTokenizerBase, config: EvaluateConfig
    ) -> None:
        super().__init__()
        self.model, self.words, self.config = model, words, config
        self.stops = [words.eos_token_id, words.convert_tokens_to_ids(tokenizer.EOT)]
        self.passes, self.tokens, self.answers, self.seconds = 0, 0, 0, 0.0

    @property
    def tokenizer_name(self) -> str:
        """Names the chat template in lm_eval's cache keys."""
        return self.words.name_or_path

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """The dialogue as text in the model's own template."""
        text = self.words.apply_chat_template(
            chat_history, tokenize=False, add_generation_prompt=add_generation_prompt
        )
        assert isinstance(text, str) and add_generation_prompt
        dialogue = Dialogue(text)
        dialogue.messages = chat_history
        return dialogue

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """The answers with their delimiters, cut at the end of the turn and at stop strings."""
        contexts = [self._encode(request.args[0]) for request in requests]
        order = sorted(range(len(requests)), key=lambda index: len(contexts[index]))
        answers = [""] * len(requests)
        size = self.config.batch_size
        with tqdm(total=len(requests), desc="generate", unit="problem", disable=None) as bar:
            for start in range(0, len(order), size):
                picked = order[start : start + size]
                texts = self._generate([contexts[index] for index in picked])
                for index, text in zip(picked, texts, strict=True):
                    answers[index] = _cut(text, requests[index].args[1].get("until") or [])
                bar.update(len(picked))
        return answers

    def loglikelihood(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """The Monte-Carlo bound of each answer's log-likelihood; greedy matching is not offered."""
        pairs = [(request.args[0], request.args[1]) for request in requests]
        return [(value, False) for value in self._likelihoods(pairs)]

    def loglikelihood_rolling(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        """The bound of each whole text's log-likelihood."""
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
        batch = self.words.pad({"input_ids": prompts}, padding_side="left", return_tensors="pt")
        prompt_BP = batch["input_ids"].to(self.model.device)
        result = sampler.generate(
            self.model,
            prompt_BP,
            attention_mask_BP=batch["attention_mask"].to(self.model.device),
            **self.options(),
        )
        answers = [
            _until(row, self.stops) for row in result.tokens_BL[:, prompt_BP.shape[1] :].tolist()
        ]
        self.passes += result.forward_passes * len(prompts)
        self.tokens += sum(map(len, answers))
        self.answers += len(prompts)
        self.seconds += time.perf_counter() - started
        return self.words.batch_decode(answers)

    def _likelihoods(self, pairs: list[tuple[str, str]]) -> list[float]:
        encoded = [
            (
                torch.tensor(self._encode(context), dtype=torch.long),
                torch.tensor(self._encode(text)),
            )
            for context, text in pairs
        ]
        with tqdm(total=len(pairs), desc="likelihood", unit="answer", disable=None) as bar:
            return diffusion.log_likelihoods(
                self.model, encoded, seed=self.config.seed, progress=bar.update
            )

    def _encode(self, text: str) -> list[int]:
        if isinstance(text, Dialogue):
            return tokenizer.chat(self.words, text.messages)
        return tokenizer.encode(self.words, [text])[0]


def _until(tokens: list[int], stops: list[int]) -> list[int]:
    """The tokens before the first stop token."""
    ends = [index for index, token in enumerate(tokens) if token in stops]
    return tokens[: ends[0]] if ends else tokens


def _cut(text: str, until: list[str] | str) -> str:
    for stop in [until] if isinstance(until, str) else until:
        text = text.split(stop)[0] if stop else text
    return text
