"""Monte-Carlo likelihood of answers under a masked diffusion model (LLaDA, arXiv:2502.09992).

Many requests are scored together. Equal noisy sequences are computed once, each pass takes
sequences of similar length up to a number of tokens, and the last block and the head compute masked
positions only.
Shapes: P prompt, A answer, S samples, U distinct masks, R sequences of a pass, L length, Q masked
positions of the sequence that has most, N masked positions.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from model.cross_entropy import cross_entropy
from model.llada import LLaDA
from model.options import check

MaskDraw = Literal["exact", "reference"]
"""How the number of masked tokens is drawn: `mask_counts`."""
Request = tuple[torch.Tensor, torch.Tensor]
"""prompt_P and answer_A."""

# Tokens of a pass, padding included. A CPU is bound by its products at any batch size; a GPU wants
# large ones.
TOKENS_PER_PASS = {"cpu": 1024}
TOKENS_PER_PASS_ELSEWHERE = 32768
# Requests whose noisy sequences are in memory at a time; equal ones are shared among these only.
GROUP = 64


@dataclass
class NoisySequence:
    """A noisy sequence, and the requests that have it."""

    noisy_L: torch.Tensor
    prompt_length: int
    places_N: torch.Tensor
    """The masked positions."""
    readings: list[tuple[int, torch.Tensor, float]] = field(default_factory=list)
    """(request, tokens at the masked positions, weight) of each request with this sequence."""


@torch.inference_mode()
def log_likelihood(
    model: LLaDA,
    prompt_P: torch.Tensor,
    answer_A: torch.Tensor,
    *,
    samples: int = 128,
    batch_size: int = 16,
    cfg_scale: float = 0.0,
    draw: MaskDraw = "exact",
    generator: torch.Generator | None = None,
) -> float:
    """Monte-Carlo lower bound of log p(answer | prompt), in nats (LLaDA, equation 6).

    Each sample masks k of the A answer tokens and weights the cross entropy by A/k. `draw` says how
    k is drawn (`mask_counts`). `batch_size` samples are stratified together and go through the
    model together. Raises ValueError on an empty answer, or if `samples` is no multiple of the
    batch.
    """
    _check(samples, min(batch_size, samples), answer_A)
    masks_SA = answer_masks(len(answer_A), samples, batch_size, draw=draw, generator=generator)
    rows: dict[tuple[bytes, bytes], NoisySequence] = {}
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
    draw: MaskDraw = "exact",
    seed: int = 0,
    numbers: Sequence[int] | None = None,
    progress: Callable[[int], object] | None = None,
) -> list[float]:
    """`log_likelihood` of each (prompt_P, answer_A), many at a time, in the order of `requests`.

    Request i draws its masks from `request_generator(seed, numbers[i])`, by default with i itself,
    so that its value does not depend on the other requests, except by rounding. `batch_size`
    samples are stratified together, as upstream does. `tokens_per_pass` bounds the tokens of a
    pass, padding included (half as many with guidance): by default 1024 on a CPU and 32768
    elsewhere. Equal noisy sequences are computed once: short answers have few masks (a single token
    has one), and the choices of a question share the fully masked sequence. `progress` is called
    with the number of requests just done.
    """
    numbers = range(len(requests)) if numbers is None else numbers
    budget = pass_budget(model, tokens_per_pass)
    for _, answer_A in requests:
        _check(samples, min(batch_size, samples), answer_A)
    likelihoods = np.zeros(len(requests))
    for group in groups(requests):
        rows: dict[tuple[bytes, bytes], NoisySequence] = {}
        for place, index in enumerate(group):
            generator = request_generator(seed, numbers[index])
            length = len(requests[index][1])
            masks_SA = answer_masks(length, samples, batch_size, draw=draw, generator=generator)
            _add_rows(rows, place, requests[index], masks_SA, model.config.mask_token_id)
        losses = _losses(model, list(rows.values()), len(group), budget, cfg_scale)
        likelihoods[group] = -losses.cpu().numpy()
        if progress:
            progress(len(group))
    return likelihoods.tolist()


def pass_budget(model: LLaDA, tokens_per_pass: int | None) -> int:
    """The most tokens of a pass: the given number, or what suits the model's device."""
    return tokens_per_pass or TOKENS_PER_PASS.get(model.device.type, TOKENS_PER_PASS_ELSEWHERE)


def groups(requests: Sequence[Request]) -> Iterator[list[int]]:
    """The places of `GROUP` requests of similar length at a time, the longest first."""
    order = sorted(range(len(requests)), key=lambda i: -sum(map(len, requests[i])))
    for start in range(0, len(order), GROUP):
        yield order[start : start + GROUP]


def request_generator(seed: int, number: int) -> torch.Generator:
    """The generator of request `number`; different seeds and numbers give independent streams."""
    mixed = np.random.SeedSequence((seed, number)).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(mixed))


def answer_masks(
    length: int,
    samples: int,
    batch_size: int,
    *,
    draw: MaskDraw = "exact",
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """The answer tokens that each sample masks: bool [samples, length], on the CPU.

    Counts are stratified within each batch of `batch_size` samples. Given its count, a mask is
    uniform.
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
    draw: MaskDraw = "exact",
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """How many of `length` tokens each of `batch` samples masks: int64 [B], in 1..length.

    `exact`: floor(((u + i/B) mod 1) * length) + 1 with one u ~ U(0,1), so that all counts are
    equally likely. `reference`: round(k + i*length/B) wrapped into 1..length, k ~ U{1..length}, as
    LLaDA's evaluation script does. Its counts are not equally likely (0.5 to 1.5 times for a batch
    of 8 and 20 tokens); it is here to reproduce published numbers.
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
    good = samples >= 1 and samples % batch_size == 0
    check("samples", samples, good, f"a multiple of batch_size={batch_size}")


def _add_rows(rows, index: int, request: Request, masks_SA: torch.Tensor, mask_id: int) -> None:
    """Adds a request's distinct noisy sequences, weighted by how many samples drew each."""
    prompt_P, answer_A = (tokens.cpu() for tokens in request)
    masks_UA, times_U = masks_SA.unique(dim=0, return_counts=True)
    weights_U = times_U * len(answer_A) / masks_UA.sum(1) / len(masks_SA)
    for mask_A, weight in zip(masks_UA, weights_U.tolist(), strict=True):
        noisy_L = torch.cat((prompt_P, answer_A.masked_fill(mask_A, mask_id)))
        key = (noisy_L.numpy().tobytes(), mask_A.numpy().tobytes())
        places_N = mask_A.nonzero()[:, 0] + len(prompt_P)
        row = rows.setdefault(key, NoisySequence(noisy_L, len(prompt_P), places_N))
        row.readings.append((index, answer_A[mask_A], weight))


def _losses(
    model: LLaDA, rows: list[NoisySequence], requests: int, budget: int, cfg_scale: float
) -> torch.Tensor:
    """Each request's sum of weighted cross entropies: fp64 [requests]."""
    total = torch.zeros(requests, dtype=torch.float64, device=model.device)
    for batch in passes(rows, budget // (2 if cfg_scale else 1)):
        states = states_of(model, batch, cfg_scale)
        readings = [
            (states_ND, targets_N, torch.full_like(targets_N, index), weight)
            for states_ND, row in zip(states, batch, strict=True)
            for index, targets_N, weight in row.readings
        ]
        weight_N = torch.cat([torch.full(t.shape, weight) for _, t, _, weight in readings])
        hidden_ND = torch.cat([reading[0] for reading in readings])
        target_N, request_N = (
            torch.cat(column).to(model.device) for column in list(zip(*readings, strict=True))[1:3]
        )
        loss_N = cross_entropy(hidden_ND, model.head_weight, target_N)
        total.index_add_(0, request_N, (loss_N * weight_N.to(model.device)).double())
    return total


def passes(rows: list[NoisySequence], budget: int) -> Iterator[list[NoisySequence]]:
    """Batches of similar length, the longest first, each at most `budget` tokens (or one row).

    A batch that fills a quarter of the budget is closed early when more than a twentieth of the
    next row would be padding.
    """
    batch: list[NoisySequence] = []
    for row in sorted(rows, key=lambda row: -len(row.noisy_L)):
        longest = len(batch[0].noisy_L) if batch else 0
        is_padded = len(row.noisy_L) < 0.95 * longest and len(batch) * longest >= budget // 4
        if batch and ((len(batch) + 1) * longest > budget or is_padded):
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def states_of(model: LLaDA, rows: list[NoisySequence], cfg_scale: float) -> Sequence[torch.Tensor]:
    """Final states [N, D] of each row's masked positions, with guidance where `cfg_scale` > 0.

    Guidance combines the logits with the prompt, c, and without it, u, to u + (s + 1)(c - u). The
    head is linear, so combining the states is the same, and the head runs once.
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
