"""Generation by denoising, block by block (LLaDA, arXiv:2502.09992, algorithms 4 and 5).

Every pass predicts all masked tokens of the active block and commits some of them
(`model.remasking`). The prefix and dual caches (Fast-dLLM, arXiv:2505.22618) reuse the keys and
values of positions outside the block; the first pass of each block computes them anew
(`model.window`).
Shapes: B batch, P prompt, G generated, L = P+G, M masked positions of the block, V vocabulary.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import torch

from model.config import LLaDAConfig
from model.llada import LLaDA
from model.options import Cache, Remasking, check
from model.remasking import Noise, choose, penalize, propose
from model.window import Window

TOKENS = ("stop_tokens", "forbidden_tokens", "deferred_tokens")


@dataclass(frozen=True)
class Generation:
    """The tokens [B, P+G], the caller's prompt first, and how many forward passes made them."""

    tokens_BL: torch.Tensor
    forward_passes: int


def generate(model: LLaDA, prompt_BP: torch.Tensor, **options) -> Generation:
    """The last generation of `stream`, which documents the options."""
    for generation in stream(model, prompt_BP, **options):
        last = generation
    return last


def before_stop(tokens: Sequence[int], stop_tokens: Sequence[int]) -> list[int]:
    """An answer's tokens before its first stop token."""
    return list(itertools.takewhile(lambda token: token not in stop_tokens, tokens))


@torch.inference_mode()
def stream(
    model: LLaDA,
    prompt_BP: torch.Tensor,
    *,
    gen_length: int,
    block_length: int,
    steps: int | None = None,
    temperature: float = 0.0,
    cfg_scale: float = 0.0,
    remasking: Remasking = "low_confidence",
    cache: Cache = "none",
    threshold: float | None = None,
    factor: float | None = None,
    repetition_penalty: float = 1.0,
    attention_mask_BP: torch.Tensor | None = None,
    stop_tokens: Sequence[int] = (),
    forbidden_tokens: Sequence[int] = (),
    deferred_tokens: Sequence[int] = (),
    generator: Noise = None,
) -> Iterator[Generation]:
    """Yields prompt and answer after every forward pass.

    `steps` is the largest number of passes over all blocks (default: one per token). The blocks
    share it evenly, the first ones taking the remainder; with `threshold` or `factor`
    (`remasking.choose`) a block may need fewer. The last block is shorter where `block_length` does
    not divide `gen_length`.

    `attention_mask_BP` is 0 at padding, which may be on either side. Each row's answer is the one
    that the row would get alone, except at temperature > 0 where all rows draw from one generator
    and not each from its own.
    A row ends at the first of `stop_tokens` that has no mask before it: the tokens behind it become
    padding, and later passes leave the row out.

    `forbidden_tokens` are never generated: their logits are set to minus infinity. LLaDA's
    published evaluations do this to EOS (`logits_eos_inf`). `deferred_tokens` are committed after
    all others (`remasking.propose`), as those evaluations do with EOS and EOT
    (`confidence_eos_eot_inf`). There is one difference: upstream leaves EOS out of the softmax of
    the confidences at temperature 0 only, here deferred tokens are left out at any temperature.

    Raises ValueError on an option out of range, an empty prompt, a mask token in the prompt, prompt
    and answer longer than the model's context, and logits that are not finite.
    """
    steps = gen_length if steps is None else steps
    _check_options(
        model.config.embedding_size,
        gen_length=gen_length,
        block_length=block_length,
        steps=steps,
        temperature=temperature,
        cfg_scale=cfg_scale,
        remasking=remasking,
        cache=cache,
        threshold=threshold,
        factor=factor,
        repetition_penalty=repetition_penalty,
        tokens=(*stop_tokens, *forbidden_tokens, *deferred_tokens),
    )
    _check_prompt(model.config, prompt_BP, attention_mask_BP, gen_length)
    window = Window(model, prompt_BP, gen_length, attention_mask_BP, cfg_scale, cache)
    blocks, passes = range(0, gen_length, block_length), 0
    for number, start in enumerate(blocks):
        window.open(start, min(start + block_length, gen_length))
        budget = steps // len(blocks) + (number < steps % len(blocks))
        for turn in range(budget):
            if not window.has_masks:
                break
            noise = generator
            if isinstance(generator, Sequence):
                noise = [generator[row] for row in window.rows_B.tolist()]
            denoise(
                window,
                budget - turn,
                temperature=temperature,
                remasking=remasking,
                threshold=threshold,
                factor=factor,
                repetition_penalty=repetition_penalty,
                stop_tokens=stop_tokens,
                forbidden_tokens=forbidden_tokens,
                deferred_tokens=deferred_tokens,
                generator=noise,
            )
            passes += 1
            with torch.inference_mode(False):  # a caller may train on the tokens
                tokens_BL = window.result_BL.clone()
            yield Generation(tokens_BL, passes)


def denoise(
    window: Window,
    turns_left: int | torch.Tensor,
    *,
    temperature: float,
    remasking: Remasking,
    threshold: float | None,
    factor: float | None,
    repetition_penalty: float,
    stop_tokens: Sequence[int],
    forbidden_tokens: Sequence[int],
    deferred_tokens: Sequence[int],
    generator: Noise,
) -> None:
    """One pass over the window's active block, and what it commits.

    `turns_left` is how many passes the block may still take, this one included; one number, or one
    for each running row [B].
    """
    logits_BMV = window.logits()
    if repetition_penalty != 1.0:
        logits_BMV = penalize(logits_BMV, window.seen(), repetition_penalty)
    if forbidden_tokens:
        logits_BMV[..., list(forbidden_tokens)] = -torch.inf
    token_BM, confidence_BM = propose(
        logits_BMV,
        window.mask_id,
        temperature=temperature,
        remasking=remasking,
        deferred=deferred_tokens,
        generator=generator,
        masked_BM=window.masked_BM,
    )
    places = window.places() if deferred_tokens else None  # their confidences tie
    commit_BM = choose(confidence_BM, window.masked_BM, turns_left, threshold, factor, places)
    window.commit(token_BM, commit_BM, stop_tokens)


DEFAULTS: dict[str, Any] = {
    "temperature": 0.0,
    "remasking": "low_confidence",
    "threshold": None,
    "factor": None,
    "repetition_penalty": 1.0,
    "stop_tokens": (),
    "forbidden_tokens": (),
    "deferred_tokens": (),
}
"""The options of `denoise`, as `stream` has them."""


def check_request(
    config: LLaDAConfig,
    prompt_BP: torch.Tensor,
    *,
    gen_length: int,
    block_length: int,
    steps: int | None = None,
    cfg_scale: float = 0.0,
    cache: Cache = "none",
    **options: Any,
) -> None:
    """Raises what `stream` raises of a prompt or an option, without a pass."""
    chosen = {**DEFAULTS, **options}
    tokens = [token for name in TOKENS for token in chosen.pop(name)]
    steps = gen_length if steps is None else steps
    _check_options(
        config.embedding_size,
        tokens=tokens,
        gen_length=gen_length,
        block_length=block_length,
        steps=steps,
        cfg_scale=cfg_scale,
        cache=cache,
        **chosen,
    )
    _check_prompt(config, prompt_BP, None, gen_length)


def _check_options(vocabulary: int, *, tokens: Sequence[int], **options) -> None:
    o = options
    blocks = -(-o["gen_length"] // o["block_length"]) if o["block_length"] > 0 else 0
    for name, is_good, allowed in (
        ("gen_length", o["gen_length"] > 0, "1 or more"),
        ("block_length", o["block_length"] > 0, "1 or more"),
        ("steps", blocks <= o["steps"], f"at least one a block ({blocks})"),
        ("temperature", 0 <= o["temperature"] < math.inf, "0 or more"),
        ("cfg_scale", 0 <= o["cfg_scale"] < math.inf, "0 or more"),
        ("repetition_penalty", 0 < o["repetition_penalty"] < math.inf, "above 0"),
        ("threshold", o["threshold"] is None or 0 <= o["threshold"] <= 1, "0 to 1"),
        ("factor", o["factor"] is None or o["factor"] > 0, "above 0"),
        ("cache", o["cache"] in get_args(Cache), ", ".join(get_args(Cache))),
        ("remasking", o["remasking"] in get_args(Remasking), ", ".join(get_args(Remasking))),
    ):
        check(name, o[name], is_good, allowed)
    if o["threshold"] is not None and o["factor"] is not None:
        raise ValueError(
            f"threshold={o['threshold']} and factor={o['factor']}, allowed: one of them"
        )
    for token in tokens:
        if not 0 <= token < vocabulary:
            raise ValueError(f"token {token}, allowed: 0 to {vocabulary - 1} (the vocabulary)")


def _check_prompt(
    config: LLaDAConfig,
    prompt_BP: torch.Tensor,
    attention_mask_BP: torch.Tensor | None,
    gen_length: int,
) -> None:
    """Checks all but the padding, whose tokens may be anything."""
    shape, longest = tuple(prompt_BP.shape), config.max_sequence_length
    if prompt_BP.ndim != 2 or not prompt_BP.numel():
        raise ValueError(f"empty prompt of shape {shape}, allowed: 1 or more [rows, tokens]")
    if shape[1] + gen_length > longest:
        raise ValueError(
            f"prompt of {shape[1]} tokens + gen_length={gen_length}, "
            f"allowed: at most {longest} (the context)"
        )
    visible_N = prompt_BP.flatten()
    if attention_mask_BP is not None:
        if attention_mask_BP.shape != prompt_BP.shape:
            raise ValueError(
                f"attention_mask_BP: shape {tuple(attention_mask_BP.shape)}, "
                f"allowed: the prompt's {shape}"
            )
        if not attention_mask_BP.bool().any(1).all():
            raise ValueError("attention_mask_BP: a row hides its whole prompt, allowed: a token")
        visible_N = prompt_BP[attention_mask_BP.bool()]
    if (visible_N == config.mask_token_id).any():
        raise ValueError(f"the prompt holds the mask token {config.mask_token_id}")
    if visible_N.min() < 0 or visible_N.max() >= config.embedding_size:
        raise ValueError(
            f"prompt tokens {visible_N.min()} to {visible_N.max()}, "
            f"allowed: 0 to {config.embedding_size - 1} (the vocabulary)"
        )
