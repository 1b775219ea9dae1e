"""Answers revealed token by token, in the order of the model's confidence: a score and a verdict.

All tokens of an answer are masked at first. Each pass reveals the answer's own token at the masked
position where the model is most confident, which is where the sampler would commit one
(low-confidence remasking, one token a pass). Many answers advance together, and equal sequences are
computed once: the choices of a question share the first.
Shapes: P prompt, A answer, L = P+A, N masked positions, D model width, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from model.likelihood import NoisySequence, Request, groups, pass_budget, passes, states_of
from model.llada import LLaDA
from model.projection import project, wide_logits

# Confidences this close (in nats) are equal, and the leftmost position is revealed: without a
# prompt all positions are equal at first, and rounding, which depends on the batch, would choose.
TIE = 1e-5


@dataclass(frozen=True)
class Revealed:
    """An answer after its last token was revealed, or at the first that is not greedy."""

    score: float
    """The sum of log p of the answer's tokens, each at the pass that revealed it, in nats."""
    is_greedy: bool
    """Whether the sampler at temperature 0 generates this answer."""


@dataclass
class _Answer:
    """An answer on its way."""

    index: int
    prompt_P: torch.Tensor
    answer_A: torch.Tensor
    masked_A: torch.Tensor
    score: float = 0.0
    is_greedy: bool = True

    def add_to(self, rows: dict[tuple[bytes, bytes], NoisySequence], place: int, mask: int) -> None:
        """Adds the sequence of the next pass, or a reading of an equal one."""
        noisy_L = torch.cat((self.prompt_P, self.answer_A.masked_fill(self.masked_A, mask)))
        key = (noisy_L.numpy().tobytes(), self.masked_A.numpy().tobytes())
        places_N = self.masked_A.nonzero()[:, 0] + len(self.prompt_P)
        row = rows.setdefault(key, NoisySequence(noisy_L, len(self.prompt_P), places_N))
        row.readings.append((place, self.answer_A[self.masked_A], 1.0))

    def reveal(self, place: int, target_score: float, likeliest: int) -> None:
        """Reveals the token at a place among the masked ones."""
        position = int(self.masked_A.nonzero()[place])
        self.score += target_score
        self.is_greedy &= likeliest == int(self.answer_A[position])
        self.masked_A[position] = False


@torch.inference_mode()
def reveal_each(
    model: LLaDA,
    requests: Sequence[Request],
    *,
    tokens_per_pass: int | None = None,
    cfg_scale: float = 0.0,
    until_not_greedy: bool = False,
) -> Iterator[tuple[int, Revealed]]:
    """Yields (i, `Revealed` of the answer of request i), in no fixed order.

    The score is exact, as no draw is involved, but no bound of log p(answer | prompt): it is the
    log-probability of the answer by the chain rule in one order, the most confident position first.
    For a single token it is log p(answer | prompt), as the likelihood is. iLLaDA (arXiv:2606.25331)
    scores choices by confidence; its text and code were not to be had when this was written, and
    the rule is ours.

    The verdict is upstream's `suffix_greedy_prediction`. `until_not_greedy` stops at an answer's
    first token that is not the likeliest, where the verdict is certain; the score is then partial.
    `tokens_per_pass` and `cfg_scale` are those of `likelihood.log_likelihoods`. Raises
    ValueError on an empty answer, before the first pass.
    """
    if not all(len(answer_A) for _, answer_A in requests):
        raise ValueError("the answer is empty, allowed: one token or more")
    budget = pass_budget(model, tokens_per_pass)
    for group in groups(requests):
        answers = [_start(index, *requests[index]) for index in group]
        while answers:
            _advance(model, answers, budget, cfg_scale)
            for answer in answers:
                if _has_ended(answer, until_not_greedy):
                    yield answer.index, Revealed(answer.score, answer.is_greedy)
            answers = [answer for answer in answers if not _has_ended(answer, until_not_greedy)]


def _start(index: int, prompt_P: torch.Tensor, answer_A: torch.Tensor) -> _Answer:
    answer_A = answer_A.cpu()
    return _Answer(index, prompt_P.cpu(), answer_A, torch.ones_like(answer_A, dtype=torch.bool))


def _has_ended(answer: _Answer, until_not_greedy: bool) -> bool:
    return not answer.masked_A.any() or (until_not_greedy and not answer.is_greedy)


def _advance(model: LLaDA, answers: list[_Answer], budget: int, cfg_scale: float) -> None:
    """Reveals one token of every answer."""
    rows: dict[tuple[bytes, bytes], NoisySequence] = {}
    for place, answer in enumerate(answers):
        answer.add_to(rows, place, model.config.mask_token_id)
    for batch in passes(list(rows.values()), budget // (2 if cfg_scale else 1)):
        states = states_of(model, batch, cfg_scale)
        for row, states_ND in zip(batch, states, strict=True):
            scores_NV = _log_probabilities(model, states_ND)
            best_N, token_N = scores_NV.max(-1)
            place = int((best_N >= best_N.max() - TIE).int().argmax())
            for index, targets_N, _ in row.readings:
                score = scores_NV[place, targets_N[place]].item()
                answers[index].reveal(place, score, int(token_N[place]))


def _log_probabilities(model: LLaDA, states_ND: torch.Tensor) -> torch.Tensor:
    """log p of every token at the masked positions: fp32 [N, V], fp64 of a model in fp64."""
    if states_ND.device.type == "cpu":
        logits_NV = project(states_ND, model.head_weight)
    else:
        logits_NV = wide_logits(states_ND, model.head_weight)
    return (logits_NV if logits_NV.dtype == torch.float64 else logits_NV.float()).log_softmax(-1)
