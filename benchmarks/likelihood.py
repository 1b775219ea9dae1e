"""Likelihood of 64 answers against a loop that scores one at a time with logits everywhere.

The loop does what LLaDA's evaluation script does. It scores every eighth request, and its seconds
are those times the share of tokens: alone, a request costs what its tokens cost, and all of them
take minutes. What is measured is one call, model loaded.
"""

import torch
import torch.nn.functional as F

from benchmarks import measure
from benchmarks.measure import Row
from benchmarks.network import network
from model import likelihood
from model.likelihood import Request
from model.llada import LLaDA

SAMPLES = 32
EVERY = 8  # of so many requests the loop scores one
# Tokens of an answer, by kind of task: a letter (MMLU, GPQA), a short choice (ARC, WinoGrande),
# the end of a sentence or paragraph (HellaSwag, PIQA). Each kind has a third of the questions.
KINDS = ((1, 1), (2, 6), (10, 40))


def rows(device: str) -> list[Row]:
    """Two sets of requests: choices of questions as in the published tasks, and long answers."""
    model = network(device)
    return [
        _row(model, choices(), "64 answers: 16 questions, four choices of 1 to 40 tokens", 3.0),
        _row(model, long_answers(), "16 answers of 16 to 64 tokens, nothing shared", 1.5),
    ]


def choices(questions: int = 16) -> list[Request]:
    """Four choices a question, prompts of 16 to 128 tokens."""
    draw = torch.Generator().manual_seed(0)
    requests = []
    for question in range(questions):
        prompt_P = _tokens(16, 128, draw)
        kind = KINDS[question % len(KINDS)]
        requests += [(prompt_P, _tokens(*kind, draw)) for _ in range(4)]
    return requests


def long_answers(count: int = 16) -> list[Request]:
    """Requests of their own prompts of 16 to 128 tokens."""
    draw = torch.Generator().manual_seed(1)
    return [(_tokens(16, 128, draw), _tokens(16, 64, draw)) for _ in range(count)]


def ours(model: LLaDA, requests: list[Request]) -> list[float]:
    """The batched way."""
    return likelihood.log_likelihoods(model, requests, samples=SAMPLES, batch_size=16)


@torch.inference_mode()
def loop(model: LLaDA, requests: list[Request]) -> list[float]:
    """One request at a time, its samples in batches of 16, the logits of every position."""
    return [_alone(model, index, *request) for index, request in enumerate(requests)]


def _alone(model, index: int, prompt_P, answer_A) -> float:
    masks_SA = likelihood.answer_masks(
        len(answer_A), SAMPLES, 16, generator=likelihood.request_generator(0, index)
    ).to(model.device)
    tokens_BL = torch.cat((prompt_P, answer_A)).repeat(16, 1).to(model.device)
    total = 0.0
    for masks_BA in masks_SA.split(16):
        masked_BL = F.pad(masks_BA, (len(prompt_P), 0))
        logits_BLV = model(tokens_BL.masked_fill(masked_BL, model.config.mask_token_id)).float()
        loss_N = F.cross_entropy(logits_BLV[masked_BL], tokens_BL[masked_BL], reduction="none")
        weight_N = (len(answer_A) / masks_BA.sum(1)).repeat_interleave(masks_BA.sum(1))
        total -= (loss_N * weight_N).sum().item() / SAMPLES
    return total


def _row(model: LLaDA, requests: list[Request], work: str, bar: float) -> Row:
    few = requests[::EVERY]
    baseline, spent = measure.seconds(
        lambda: loop(model, few), lambda: ours(model, requests), device=model.device
    )
    return Row(
        work=f"{work}, {SAMPLES} samples each",
        against="one at a time, logits at every position",
        unit="s",
        baseline=baseline * _size(requests) / _size(few),
        ours=spent,
        bar=bar,
    )


def _size(requests: list[Request]) -> int:
    return sum(len(prompt_P) + len(answer_A) for prompt_P, answer_A in requests)


def _tokens(low: int, high: int, draw: torch.Generator) -> torch.Tensor:
    length = int(torch.randint(low, high + 1, (), generator=draw))
    return torch.randint(2, 32000, (length,), generator=draw)
