"""Monte-Carlo likelihood of answers under a masked diffusion model (LLaDA, arXiv:2502.09992).

Many requests are scored together: equal noisy rows once, passes of like lengths under a budget of
tokens, the last block and the head at masked positions. What is asked, and of which benchmark, is
the evaluation's.
Shapes: P prompt, A answer, S samples, U distinct masks, R rows of a pass, L length, N masked
positions.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from model.cross_entropy import cross_entropy
from model.llada import LLaDA

Draw = Literal["exact", "reference"]
Request = tuple[torch.Tensor, torch.Tensor]

TOKENS_PER_PASS = {"cpu": 1024}
TOKENS_PER_PASS_ELSEWHERE = 32768
# Requests whose rows are in memory at once; equal rows are found among them.
GROUP = 64


@dataclass
class _Row:
    """One noisy sequence, and what is read from it."""

    noisy_L: torch.Tensor
    prompt_length: int
    places_N: torch.Tensor
    """The masked positions."""
    readings: list[tuple[int, torch.Tensor, float]] = field(default_factory=list)
    """(request, tokens at the masked positions, weight) of each request that has this row."""


@torch.inference_mode()
def log_likelihood(
    model: LLaDA,
    prompt_P: torch.Tensor,
    answer_A: torch.Tensor,
    *,
    samples: int = 128,
    batch_size: int = 16,
    cfg_scale: float = 0.0,
    draw: Draw = "exact",
    generator: torch.Generator | None = None,
) -> float:
    """Monte-Carlo lower bound of log p(answer | prompt), in nats (LLaDA, equation 6).

    Each sample masks k of the A answer tokens and weighs the cross entropy by A/k. `exact` draws
    the counts stratified and uniform; `reference` draws them as LLaDA's evaluation script does.
    `batch_size` samples are stratified together and go through the model together.
    Raises ValueError on an empty answer or `samples` not a multiple of the batch.
    """
    _check(samples, min(batch_size, samples), answer_A)
    masks_SA = answer_masks(len(answer_A), samples, batch_size, draw=draw, generator=generator)
    rows: dict[tuple[bytes, bytes], _Row] = {}
    _add_rows(rows, 0, (prompt_P, answer_A), masks_SA, model.config.mask_token_id)
    budget = batch_size * (len(prompt_P) + len(answer_A))
    return -_losses(model, list(rows.values()), 1, budget, cfg_scale).item()


@torch.inference_mode()
def log_likelihoods(
    model: LLaDA,
    requests: Sequence[Request],
    *,
    samples: int = 128,
    batch_size: int = 16,
    tokens_per_pass: int | None = None,
    cfg_scale: float = 0.0,
    draw: Draw = "exact",
    seed: int = 0,
    progress: Callable[[int], object] | None = None,
) -> list[float]:
    """`log_likelihood` of each (prompt_P, answer_A), many at a time, in the order of `requests`.

    Request i draws its own noise, from `request_generator(seed, i)`, so its value does not depend
    on its neighbours but for rounding. `batch_size` samples are stratified together, as upstream;
    how many rows go through the model at once is up to `tokens_per_pass` (padding included; half
    as many rows with guidance), by default 1024 on a CPU, 32768 elsewhere. A row that occurs twice
    is computed once: short answers have few masks (one token: one), and the choices of a question
    share fully masked rows. `progress` is told how many more requests are done.
    """
    budget = tokens_per_pass or TOKENS_PER_PASS.get(model.device.type, TOKENS_PER_PASS_ELSEWHERE)
    for _, answer_A in requests:
        _check(samples, min(batch_size, samples), answer_A)
    order = sorted(range(len(requests)), key=lambda i: -sum(map(len, requests[i])))
    found = np.zeros(len(requests))
    for start in range(0, len(order), GROUP):
        picked = order[start : start + GROUP]
        rows: dict[tuple[bytes, bytes], _Row] = {}
        for place, index in enumerate(picked):
            generator = request_generator(seed, index)
            length = len(requests[index][1])
            masks_SA = answer_masks(length, samples, batch_size, draw=draw, generator=generator)
            _add_rows(rows, place, requests[index], masks_SA, model.config.mask_token_id)
        losses = _losses(model, list(rows.values()), len(picked), budget, cfg_scale)
        found[picked] = -losses.cpu().numpy()
        if progress:
            progress(len(picked))
    return found.tolist()


def request_generator(seed: int, index: int) -> torch.Generator:
    """The noise of request `index`; streams of different seeds and indices do not overlap."""
    mixed = np.random.SeedSequence((seed, index)).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(mixed))


def answer_masks(
    length: int,
    samples: int,
    batch_size: int,
    *,
    draw: Draw = "exact",
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """Which of `length` answer tokens each sample masks: bool [samples, length], on the CPU.

    The counts are stratified within each `batch_size` samples; given its count a mask is uniform.
    """
    device = generator.device if generator else torch.device("cpu")
    batch_size = min(batch_size, samples)
    masks = []
    for _ in range(samples // batch_size):
        count_B = mask_counts(length, batch_size, draw=draw, generator=generator)
        order_BA = torch.rand(batch_size, length, generator=generator, device=device).argsort(1)
        masks.append(order_BA.argsort(1).cpu() < count_B[:, None])
    return torch.cat(masks)


def mask_counts(
    length: int,
    batch: int,
    *,
    draw: Draw = "exact",
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """How many of `length` tokens each of `batch` samples masks: int64 [B], in 1..length.

    `exact`: floor(((u + i/b) mod 1) * length) + 1 with one u ~ U(0,1), so that every count has the
    same marginal. `reference`: round(k + i*length/b) wrapped into 1..length, k ~ U{1..length}.
    """
    device = generator.device if generator else torch.device("cpu")
    steps_B = torch.arange(batch, dtype=torch.float64)
    if draw == "exact":
        offset = torch.rand((), dtype=torch.float64, generator=generator, device=device).cpu()
        return (((offset + steps_B / batch) % 1) * length).long() + 1
    first = torch.randint(1, length + 1, (), generator=generator, device=device).double().item()
    counts = torch.linspace(first, first + (batch - 1) * (length / batch), steps=batch)
    return (counts.round().long() - 1) % length + 1


def _check(samples: int, batch_size: int, answer_A: torch.Tensor) -> None:
    if answer_A.numel() == 0:
        raise ValueError("the answer is empty, allowed: one token or more")
    if samples < 1 or samples % batch_size:
        raise ValueError(f"samples={samples}, allowed: a multiple of batch_size={batch_size}")


def _add_rows(rows, index: int, request: Request, masks_SA: torch.Tensor, mask_id: int) -> None:
    """Adds a request's distinct noisy sequences, weighed by how many samples drew each."""
    prompt_P, answer_A = (tokens.cpu() for tokens in request)
    masks_UA, times_U = masks_SA.unique(dim=0, return_counts=True)
    weights_U = times_U * len(answer_A) / masks_UA.sum(1) / len(masks_SA)
    for mask_A, weight in zip(masks_UA, weights_U.tolist(), strict=True):
        noisy_L = torch.cat((prompt_P, answer_A.masked_fill(mask_A, mask_id)))
        key = (noisy_L.numpy().tobytes(), mask_A.numpy().tobytes())
        places_N = mask_A.nonzero()[:, 0] + len(prompt_P)
        row = rows.setdefault(key, _Row(noisy_L, len(prompt_P), places_N))
        row.readings.append((index, answer_A[mask_A], weight))


def _losses(model, rows: list[_Row], requests: int, budget: int, cfg_scale: float) -> torch.Tensor:
    """Each request's weighted cross entropies, summed: fp64 [requests]."""
    total = torch.zeros(requests, dtype=torch.float64, device=model.device)
    for picked in _passes(rows, budget // (2 if cfg_scale else 1)):
        states = _states(model, picked, cfg_scale)
        found = [
            (states_ND, targets_N, torch.full_like(targets_N, index), weight)
            for states_ND, row in zip(states, picked, strict=True)
            for index, targets_N, weight in row.readings
        ]
        weight_N = torch.cat([torch.full(t.shape, weight) for _, t, _, weight in found])
        hidden_ND = torch.cat([reading[0] for reading in found])
        target_N, request_N = (
            torch.cat(column).to(model.device) for column in list(zip(*found, strict=True))[1:3]
        )
        loss_N = cross_entropy(hidden_ND, model.head_weight, target_N)
        total.index_add_(0, request_N, (loss_N * weight_N.to(model.device)).double())
    return total


def _passes(rows: list[_Row], budget: int) -> Iterator[list[_Row]]:
    """Rows of like lengths, the longest first: as many as fit in `budget` tokens, one at least.

    A pass of a quarter of the budget ends early where the next row would be a twentieth padding.
    """
    picked: list[_Row] = []
    for row in sorted(rows, key=lambda row: -len(row.noisy_L)):
        longest = len(picked[0].noisy_L) if picked else 0
        is_padded = len(row.noisy_L) < 0.95 * longest and len(picked) * longest >= budget // 4
        if picked and ((len(picked) + 1) * longest > budget or is_padded):
            yield picked
            picked = []
        picked.append(row)
    if picked:
        yield picked


def _states(model, rows: list[_Row], cfg_scale: float) -> Sequence[torch.Tensor]:
    """Final states [N, D] of each row's masked positions, guided if asked.

    Guidance, u + (s + 1)(c - u) of the logits with and without the prompt, is linear and so is the
    head: the states are combined, and the head sees one of them.
    """
    device = model.device
    noisy_RL = pad_sequence([row.noisy_L for row in rows], batch_first=True).to(device)
    positions_RQ = pad_sequence([row.places_N for row in rows], batch_first=True).to(device)
    lengths_R = torch.tensor([len(row.noisy_L) for row in rows], device=device)
    places_L = torch.arange(noisy_RL.shape[1], device=device)
    ragged = len(rows[0].noisy_L) != len(rows[-1].noisy_L)
    real_RL = places_L < lengths_R[:, None] if ragged else None
    if cfg_scale:
        prompts_R = torch.tensor([row.prompt_length for row in rows], device=device)
        blind_RL = noisy_RL.masked_fill(places_L < prompts_R[:, None], model.config.mask_token_id)
        real_RL = None if real_RL is None else real_RL.repeat(2, 1)
        noisy_RL, positions_RQ = torch.cat((noisy_RL, blind_RL)), positions_RQ.repeat(2, 1)
    hidden_RQD = model.hidden(noisy_RL, real_RL, positions_BQ=positions_RQ)
    if cfg_scale:
        seeing_RQD, blind_RQD = hidden_RQD.chunk(2)
        hidden_RQD = blind_RQD + (cfg_scale + 1) * (seeing_RQD - blind_RQD)
    return [states_QD[: len(row.places_N)] for states_QD, row in zip(hidden_RQD, rows, strict=True)]
