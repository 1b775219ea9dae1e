"""Groups of answers to a batch of prompts: generated, rewarded and compared.

Of several processes each generates and rewards the answers to its share of the prompts; then all of
them hold all answers. The policy is in eval mode here, without dropout. `learner.py` learns from
the answers.
Shapes: B answers, N prompts, G answers per prompt, P prompt, L = prompt and generated tokens.
"""

import dataclasses
import itertools
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather, gather_object
from transformers import PreTrainedTokenizerBase

from components.data import dataset as data
from components.grpo.config import GrpoConfig
from components.rewards import named
from components.rewards.judge import Group, Judge
from components.rewards.named import Scored
from components.rewards.sandbox import SandboxError
from model import preference, sampler
from model.batching import pad_left
from model.llada import LLaDA
from model.remasking import Noise
from model.tokenizer import encode_chat, stop_tokens
from model.training.processes import own_share

# Faults of the machine, not of an answer; math-verify raises RuntimeError if it cannot start.
MACHINE = (SandboxError, OSError, MemoryError, RuntimeError)


@dataclasses.dataclass(frozen=True)
class Rollouts:
    """Answers, with all that the objective needs.

    `window_BL` is True on all that was denoised, `answer_BL` on each answer up to the stop token
    that ended it (the whole window where none did); padding that nothing sampled follows.
    `order_BL` is the pass that committed a token, from 1. `problem_B` is the number of the answer's
    problem within the step.
    """

    tokens_BL: torch.Tensor
    attention_BL: torch.Tensor
    window_BL: torch.Tensor
    answer_BL: torch.Tensor
    order_BL: torch.Tensor
    advantage_B: torch.Tensor
    problem_B: torch.Tensor

    def rows(self, rows: torch.Tensor) -> "Rollouts":
        """Some of the answers."""
        fields = dataclasses.fields(self)
        return Rollouts(**{field.name: getattr(self, field.name)[rows] for field in fields})


def roll_out(
    model: LLaDA,
    tokenizer: PreTrainedTokenizerBase,
    problems: list[dict[str, Any]],
    config: GrpoConfig,
    generator: Noise,
    judge: Judge | None = None,
    *,
    first: int = 0,
) -> tuple[Rollouts, dict[str, float]]:
    """`config.group` answers to each problem, and the figures of the batch, in every process.

    `generator` is one for each answer, or one for all where there is a single process. `first` is
    the number of the first problem within the run. `rollout_passes` are those of the process that
    needed most.
    """
    prompts = [
        encode_chat(tokenizer, data.prompt_messages(row)) for row in _each(problems, config.group)
    ]
    prompt_BP, seen_BP = pad_left(prompts, model.config.pad_token_id, model.device)
    rows = own_share(len(prompts))
    noise = generator[rows] if isinstance(generator, Sequence) else generator
    # Padded as the whole batch is, so that all shares are of one shape.
    share = _generate(model, tokenizer, prompt_BP[rows], seen_BP[rows], config, noise)
    tokens_BL, order_BL = (gather(rows_BL) for rows_BL in share)
    window_BL = torch.ones_like(tokens_BL, dtype=torch.bool)
    window_BL[:, : prompt_BP.shape[1]] = False
    stops = torch.tensor(stop_tokens(tokenizer), device=model.device)
    is_stop_BL = torch.isin(tokens_BL, stops) & window_BL
    answer_BL = window_BL & (is_stop_BL.cumsum(1) - is_stop_BL.int() == 0)
    answers = [row[answer].tolist() for row, answer in zip(tokens_BL, answer_BL, strict=True)]
    advantage_NG, figures = _compare(answers, problems, tokenizer, config, judge, first)
    figures["rollout_passes"] = int(order_BL.max())
    places_N = torch.arange(len(problems), device=model.device)
    rollouts = Rollouts(
        tokens_BL=tokens_BL,
        attention_BL=torch.cat((seen_BP, window_BL[:, prompt_BP.shape[1] :]), 1),
        window_BL=window_BL,
        answer_BL=answer_BL,
        order_BL=order_BL,
        advantage_B=advantage_NG.flatten().float().to(model.device),
        problem_B=places_N.repeat_interleave(config.group),
    )
    return rollouts, figures


def _compare(
    answers: list[list[int]],
    problems: list[dict[str, Any]],
    tokenizer: PreTrainedTokenizerBase,
    config: GrpoConfig,
    judge: Judge | None,
    first: int,
) -> tuple[torch.Tensor, dict[str, float]]:
    """Advantages [N, G] and the figures.

    Advantages are zero in a group that cannot be compared, because the judge failed or the reward
    of an answer did.
    """
    stops = stop_tokens(tokenizer)
    unstopped = [answer[:-1] if answer[-1] in stops else answer for answer in answers]
    texts = tokenizer.batch_decode(unstopped, skip_special_tokens=False)
    repeated = [
        {**problem, "tokens": len(answer), "max_tokens": config.gen_length}
        for problem, answer in zip(_each(problems, config.group), answers, strict=True)
    ]
    reward_B, figures = _rewards(texts, repeated, config)
    reward_NG = reward_B.view(-1, config.group)
    failed_N = reward_NG.isnan().any(1)
    unjudged_N = torch.zeros_like(failed_N)
    reward_NG, largest = reward_NG.nan_to_num(0.0), sum(abs(w) for _, w in config.rewards)
    if judge is not None:
        score_NG, unjudged_N = _judged(judge, texts, problems, config.group, first)
        reward_NG = reward_NG + judge.config.weight * score_NG.double()
        largest += abs(judge.config.weight)
        figures["judge_failed"] = judge.failed
        if not unjudged_N.all():
            figures["judged"] = float(score_NG[~unjudged_N].mean())
    advantage_NG = preference.advantages(
        reward_NG,
        normalize=config.normalize,
        leave_one_out=config.leave_one_out,
        scale=largest,
    )
    advantage_NG[unjudged_N | failed_N] = 0.0
    is_flat_N = (advantage_NG == 0).all(1) & ~unjudged_N & ~failed_N
    return advantage_NG, {**figures, "groups_without_spread": int(is_flat_N.sum())}


def _generate(model, tokenizer, prompt_BP, seen_BP, config: GrpoConfig, generator):
    """The window [B, L] after the last pass, and the pass that committed each token."""
    model.eval()
    order_BL = None
    for generation in sampler.stream(
        model,
        prompt_BP,
        gen_length=config.gen_length,
        block_length=config.block_length,
        threshold=config.threshold,
        temperature=config.temperature,
        cache="dual",
        attention_mask_BP=seen_BP,
        stop_tokens=stop_tokens(tokenizer),
        generator=generator,
    ):
        known_BL = generation.tokens_BL != model.config.mask_token_id
        if order_BL is None:
            order_BL = torch.zeros_like(generation.tokens_BL)
        order_BL[known_BL & (order_BL == 0)] = generation.forward_passes
    assert order_BL is not None
    return generation.tokens_BL, order_BL


def _rewards(
    texts: list[str], problems: list[dict[str, Any]], config: GrpoConfig
) -> tuple[torch.Tensor, dict[str, float]]:
    """The weighted reward of each answer [B] in fp64, NaN where it failed, and the figures.

    The figures are the mean reward, the mean of each part by its name, and the number of failures.
    """
    rows = own_share(len(texts))
    with ThreadPoolExecutor(config.reward_workers) as pool:
        share = pool.map(_score, texts[rows], problems[rows], itertools.repeat(config))
        scores = gather_object(list(share))
    scored = [score for score in scores if isinstance(score, Scored)]
    failures = [score for score in scores if isinstance(score, str)]
    if failures:
        line = f"grpo: no reward for {len(failures)} answers, the first: {failures[0]}"
        PartialState().print(line, flush=True)
    totals = [score.total if isinstance(score, Scored) else math.nan for score in scores]
    figures: dict[str, float] = {"rewards_failed": len(failures)}
    if scored:
        figures["reward"] = _mean([score.total for score in scored])
        for name, _ in config.rewards:
            shown = "accuracy" if name == "verified" else name
            figures[shown] = _mean([score.parts[name] for score in scored])
    return torch.tensor(totals, dtype=torch.float64), figures


def _score(text: str, problem: dict[str, Any], config: GrpoConfig) -> Scored | str:
    """An answer's rewards, or a line that names the problem and the reason of the failure.

    A reward runs libraries, or the answer's own code, on text that a model wrote: any exception
    counts against the one answer, unless the machine is at fault.
    """
    try:
        return named.score(text, problem, config.rewards)
    except Exception as error:
        if isinstance(error, MACHINE) and not isinstance(error, RecursionError):
            raise
        return f"problem {problem['prompt']!r:.60}: {type(error).__name__}: {error}"


def _question(problem: dict[str, Any]) -> str:
    return "\n\n".join(message["content"] for message in data.prompt_messages(problem))


def _judged(
    judge: Judge, texts: list[str], problems: list[dict[str, Any]], group: int, first: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The judge's score of each answer [N, G], and which groups it failed to judge [N]."""
    groups = [
        Group(_question(problem), texts[number * group : (number + 1) * group])
        for number, problem in enumerate(problems)
    ]
    share = own_share(len(groups))
    replies, counts = judge.ask(groups[share], first=first + share.start)
    for each in gather_object([counts]):
        judge.count(each)
    judge.check_failures()
    rows = gather_object(replies)
    scores = torch.tensor([[0.0] * group if row is None else row for row in rows])
    return scores, torch.tensor([row is None for row in rows])


def _each(problems: list[dict[str, Any]], group: int) -> list[dict[str, Any]]:
    """Each problem once for every answer to it."""
    return [problem for problem in problems for _ in range(group)]


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
