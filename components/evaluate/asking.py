"""Puts queries to the model: answers by continuous batching, likelihoods many at a time.

Every query's value depends on the query and the settings alone, up to rounding: its draws come from
the seed and its own number.
"""

import hashlib
import time
from collections.abc import Iterator, Sequence

import torch
from transformers import PreTrainedTokenizerBase

from components.evaluate.config import EvaluateConfig
from components.evaluate.requests import Encoder, Query
from components.evaluate.store import Finished
from model import batching, choices, likelihood
from model.llada import LLaDA
from model.tokenizer import EOT, stop_tokens


def sampling(tokenizer: PreTrainedTokenizerBase, config: EvaluateConfig) -> dict:
    """The options of `sampler.stream` for an evaluation."""
    ids = {"eos": tokenizer.eos_token_id, "eot": tokenizer.convert_tokens_to_ids(EOT)}
    return {
        "gen_length": config.gen_length,
        "block_length": config.block_length,
        "steps": config.steps,
        "temperature": config.temperature,
        "cfg_scale": config.cfg_scale,
        "remasking": config.remasking,
        "threshold": config.threshold,
        "factor": config.factor,
        "cache": config.cache,
        "repetition_penalty": config.repetition_penalty,
        "stop_tokens": stop_tokens(tokenizer),
        "forbidden_tokens": [ids[name] for name in config.forbidden],
        "deferred_tokens": [ids[name] for name in config.deferred],
    }


class Stopwatch:
    """Seconds and passes since the last query was finished."""

    def __init__(self) -> None:
        self._start()

    def _start(self) -> None:
        self.started, self.passes, self.rows = time.perf_counter(), 0, 0

    def on_pass(self, rows: int) -> None:
        """Counts a forward pass of so many rows."""
        self.passes += 1
        self.rows += rows

    def lap(self, queries: int = 1) -> dict[str, float | int]:
        """What one of the queries just finished has cost, as fields of `Finished`."""
        seconds = (time.perf_counter() - self.started) / queries
        cost = {"seconds": seconds, "batch_passes": self.passes, "rows": self.rows}
        self._start()
        return cost


def answer_each(
    model: LLaDA, encoder: Encoder, queries: Sequence[Query]
) -> Iterator[tuple[Query, Finished]]:
    """Yields each query with its answer, as it ends."""
    config, watch = encoder.config, Stopwatch()
    options = sampling(encoder.tokenizer, config)
    gen_length, steps = options.pop("gen_length"), options.pop("steps")
    requests = [
        batching.Request(query.prompt, gen_length, steps, _seed(config.seed, query))
        for query in queries
    ]
    for answer in batching.generate_all(
        model,
        requests,
        batch_size=config.batch_size,
        tokens_per_batch=config.batch_tokens,
        is_complete=lambda index, tokens: encoder.has_stop(queries[index], tokens),
        on_pass=watch.on_pass,
        **options,
    ):
        query = queries[answer.index]
        text, tokens = encoder.answer_text(query, answer.tokens)
        yield (
            query,
            Finished(text, len(query.prompt), tokens, answer.passes, **watch.lap()),  # type: ignore[arg-type]
        )


def score_each(
    model: LLaDA, config: EvaluateConfig, queries: Sequence[Query]
) -> Iterator[tuple[Query, Finished]]:
    """Yields each query with its log-likelihood, or with its score by confidence, as it is known.

    The verdict, whether the text is the greedy answer, is False unless `check_greedy` asks for it.
    """
    # Choices of a question next to each other, because they share sequences, and equal lengths.
    order = sorted(queries, key=lambda query: (-len(query.prompt), query.prompt, -len(query.text)))
    for start in range(0, len(order), likelihood.GROUP):
        group, watch = order[start : start + likelihood.GROUP], Stopwatch()
        values = _values(model, config, group)
        cost = watch.lap(len(group))
        for query, value in zip(group, values, strict=True):
            yield query, Finished(value, len(query.prompt), **cost)  # type: ignore[arg-type]


def _values(
    model: LLaDA, config: EvaluateConfig, queries: Sequence[Query]
) -> list[tuple[float, bool]]:
    requests = [
        (torch.tensor(query.prompt, dtype=torch.long), torch.tensor(query.text))
        for query in queries
    ]
    scale, checks = config.likelihood_cfg_scale, config.check_greedy
    by_confidence = config.choices == "confidence"
    revealed = {}
    if by_confidence or checks:
        revealed = dict(
            choices.reveal_each(
                model, requests, cfg_scale=scale, until_not_greedy=not by_confidence
            )
        )
    verdicts = [checks and revealed[index].is_greedy for index in range(len(queries))]
    if by_confidence:
        scores = [revealed[index].score for index in range(len(queries))]
        return list(zip(scores, verdicts, strict=True))
    values = likelihood.log_likelihoods(
        model,
        requests,
        samples=config.samples,
        batch_size=config.likelihood_batch,
        cfg_scale=scale,
        draw=config.draw,
        seed=config.seed,
        numbers=[query.number for query in queries],
    )
    return list(zip(values, verdicts, strict=True))


def _seed(seed: int, query: Query) -> int:
    """The seed of a query's own draws."""
    mixed = hashlib.sha256(f"{seed} {query.digest}".encode()).hexdigest()
    return int(mixed, 16) % 2**63
