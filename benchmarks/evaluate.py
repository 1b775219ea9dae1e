"""Seconds for 200 mixed requests of an evaluation, against a loop that takes them one at a time.

A third each: 68 answers of up to 32 tokens that end at their stop text after different lengths, 68
choices of 2 to 20 tokens and 64 of a single token, four to a question. The loop does what LLaDA's
evaluation script does: one request at a time, the logits of every position, all passes of an
answer, whatever its stop text, and all samples of a likelihood. It takes every eighth request; its
seconds are those times the share of tokens that go through the model: a request costs what its
tokens cost. Both take the same draws, so that likelihoods must agree but for rounding; answers are
compared as texts.
"""

import random
import tempfile
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from lm_eval.api.instance import Instance
from transformers import PreTrainedTokenizerBase

from benchmarks import measure
from benchmarks.measure import Row
from benchmarks.network import network
from components.evaluate.config import EvaluateConfig
from components.evaluate.harness import DiffusionLM
from components.evaluate.requests import Query
from model import likelihood
from model.config import LLaDAConfig
from model.llada import LLaDA
from model.tokenizer import load_tokenizer, train_tokenizer

CONFIG = EvaluateConfig(
    form="text", gen_length=32, block_length=8, cache="none", samples=128, batch_size=16
)
EVERY = 8  # of so many requests the loop takes one
ANSWERS, CHOICES, TOKENS = 68, 17, 16
"""Answers, questions with longer choices, and questions with choices of one token."""
BAR = 3.0
ROUNDS = 3
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def rows(device: str) -> list[Row]:
    """Each kind of requests, and all of them together. Raises ValueError where values differ."""
    tokenizer = words()
    model = network(device, small=shape(tokenizer), large=shape(tokenizer))
    kinds = [
        ("answers of up to 32 tokens", generating(), True),
        ("choices of 2 to 20 tokens", choosing(CHOICES, 2, 20), False),
        ("choices of a token", choosing(TOKENS, 1, 1), False),
    ]
    measured = [_row(model, tokenizer, *kind) for kind in kinds]
    total = Row(
        work=f"{sum(len(requests) for _, requests, _ in kinds)} mixed requests",
        against=measured[0].against,
        unit="s",
        baseline=sum(row.baseline for row in measured),
        ours=sum(row.ours for row in measured),
        bar=BAR,
    )
    return [total, *measured]


def words() -> PreTrainedTokenizerBase:
    """A tokenizer of 4000 pieces of made-up words."""
    draw = random.Random(0)
    texts = [
        " ".join("".join(draw.choices(LETTERS, k=draw.randint(2, 9))) for _ in range(20))
        for _ in range(2000)
    ]
    with tempfile.TemporaryDirectory() as folder:
        train_tokenizer(texts, vocabulary=4000).save_pretrained(folder)
        return load_tokenizer(folder)


def shape(tokenizer: PreTrainedTokenizerBase) -> LLaDAConfig:
    """A small model for the tokenizer, so that the loop takes minutes and not hours."""
    return LLaDAConfig(
        d_model=192,
        n_heads=3,
        n_layers=3,
        mlp_hidden_size=512,
        vocab_size=len(tokenizer),
        max_sequence_length=1024,
        mask_token_id=tokenizer.mask_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def generating() -> list[Instance]:
    """Prompts of 10 to 40 words, each with a letter as its stop text."""
    draw = random.Random(1)
    return [
        Instance("generate_until", {}, (_text(draw, 10, 40), {"until": [draw.choice(LETTERS)]}), 0)
        for _ in range(ANSWERS)
    ]


def choosing(questions: int, low: int, high: int) -> list[Instance]:
    """Four choices to each question; of one letter, or of `low` to `high` tokens about."""
    draw = random.Random(2 + high)
    requests = []
    for _ in range(questions):
        context = _text(draw, 10, 40)
        texts = [f" {letter}" for letter in "abcd"]
        if high > 1:
            texts = [f" {_text(draw, low // 2 or 1, high // 2)}" for _ in range(4)]
        requests += [Instance("loglikelihood", {}, (context, text), 0) for text in texts]
    return requests


def _text(draw: random.Random, low: int, high: int) -> str:
    count = draw.randint(low, high)
    return " ".join("".join(draw.choices(LETTERS, k=draw.randint(2, 5))) for _ in range(count))


def ours(
    model: LLaDA, tokenizer: PreTrainedTokenizerBase, requests: list[Instance]
) -> Sequence[object]:
    """The values of the requests, by the evaluation's own model."""
    lm = DiffusionLM(model, tokenizer, CONFIG)
    if requests[0].request_type == "generate_until":
        return lm.generate_until(requests)
    return [value for value, _ in lm.loglikelihood(requests)]


@torch.inference_mode()
def answer(model: LLaDA, query: Query) -> list[int]:
    """One answer by a fixed number of passes, each with the logits of every position."""
    mask, start = model.config.mask_token_id, len(query.prompt)
    tokens_L = torch.tensor([*query.prompt, *[mask] * CONFIG.gen_length], device=model.device)
    for turn in range(CONFIG.gen_length):
        logits_LV = model(tokens_L[None])[0].float()
        logits_LV[:, mask] = -torch.inf
        end = start + (turn // CONFIG.block_length + 1) * CONFIG.block_length
        confidence_L, token_L = logits_LV.softmax(-1).max(-1)
        confidence_L[tokens_L != mask] = -1
        confidence_L[end:] = -1
        place = confidence_L.argmax()
        tokens_L[place] = token_L[place]
    return tokens_L[start:].tolist()


@torch.inference_mode()
def score(model: LLaDA, query: Query) -> float:
    """One likelihood, its samples in batches, with the logits of every position."""
    size, samples = CONFIG.likelihood_batch, CONFIG.samples
    masks_SA = likelihood.answer_masks(
        len(query.text),
        samples,
        size,
        generator=likelihood.request_generator(CONFIG.seed, query.number),
    ).to(model.device)
    tokens_BL = torch.tensor([*query.prompt, *query.text], device=model.device).repeat(size, 1)
    total = 0.0
    for masks_BA in masks_SA.split(size):
        masked_BL = F.pad(masks_BA, (len(query.prompt), 0))
        noisy_BL = tokens_BL.masked_fill(masked_BL, model.config.mask_token_id)
        logits_NV = model(noisy_BL).float()[masked_BL]
        loss_N = F.cross_entropy(logits_NV, tokens_BL[masked_BL], reduction="none")
        weight_N = (len(query.text) / masks_BA.sum(1)).repeat_interleave(masks_BA.sum(1))
        total -= (loss_N * weight_N).sum().item() / samples
    return total


def _row(
    model: LLaDA,
    tokenizer: PreTrainedTokenizerBase,
    work: str,
    requests: list[Instance],
    is_answer: bool,
) -> Row:
    encoder = DiffusionLM(model, tokenizer, CONFIG).encoder
    queries = encoder.queries(requests)
    few = queries[::EVERY]
    one: Callable[[LLaDA, Query], object] = answer if is_answer else score
    theirs: list[object] = []
    mine: list[object] = []

    def loop() -> None:
        theirs[:] = [one(model, query) for query in few]

    def evaluation() -> None:
        mine[:] = ours(model, tokenizer, requests)

    baseline, spent = measure.seconds(
        loop,
        evaluation,
        warm_up=lambda: (one(model, few[0]), ours(model, tokenizer, requests[:1])),
        repeats=ROUNDS,
        device=model.device,
    )
    if is_answer:
        theirs = [
            encoder.answer_text(query, tokens)[0]  # type: ignore[arg-type]
            for query, tokens in zip(few, theirs, strict=True)
        ]
    _compare(mine[::EVERY], theirs)
    return Row(
        work=f"{len(requests)} {work}",
        against="one at a time, logits at every position",
        unit="s",
        baseline=baseline * _tokens(queries) / _tokens(few),
        ours=spent,
        bar=None,
    )


def _compare(mine: Sequence[object], theirs: Sequence[object]) -> None:
    """Raises ValueError unless answers are equal, and likelihoods but for rounding."""
    for number, (value, other) in enumerate(zip(mine, theirs, strict=True)):
        same = value == other
        if isinstance(value, float) and isinstance(other, float):
            same = abs(value - other) <= 1e-4 * abs(other)
        if not same:
            raise ValueError(f"request {number * EVERY}: {value!r}, the loop has {other!r}")


def _tokens(queries: Sequence[Query]) -> int:
    """The tokens that the loop puts through the model."""
    return sum(
        CONFIG.gen_length * (query.size + CONFIG.gen_length)
        if query.kind == "answer"
        else CONFIG.samples * query.size
        for query in queries
    )
