"""Generation by denoising, block by block (LLaDA, arXiv:2502.09992, algorithms 4 and 5).

Every pass predicts all masked tokens of the active block and commits some: the most confident ones
by a fixed schedule, all above a confidence threshold, or as many as Fast-dLLM's factor rule allows
(arXiv:2505.22618). The prefix and dual caches keep keys and values of what lies outside the pass.
Shapes: B batch, P prompt, G generated, L = P+G, S block, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from model.cache import KeyValueCache
from model.llada import LLaDA

Cache = Literal["none", "prefix", "dual"]
Remasking = Literal["low_confidence", "random"]


@dataclass(frozen=True)
class Generation:
    """Tokens [B, P+G], the prompt included, and the number of forward passes that it took."""

    tokens_BL: torch.Tensor
    forward_passes: int


def generate(model: LLaDA, prompt_BP: torch.Tensor, **options) -> Generation:
    """Runs `stream` to its end; the options are those of `stream`."""
    *_, last = stream(model, prompt_BP, **options)
    return last


@torch.no_grad()
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
    generator: torch.Generator | None = None,
) -> Iterator[Generation]:
    """Yields the window after every forward pass.

    `steps` is the largest number of passes over all blocks (default: one a token), shared out
    evenly. With `threshold` or `factor` a block may need fewer. A row ends at the first of
    `stop_tokens` that has no mask before it; what follows becomes padding.
    Raises ValueError on an option out of range, an empty prompt, a mask token in the prompt, or a
    window longer than the model's context.
    """
    steps = gen_length if steps is None else steps
    _check(model, prompt_BP, gen_length, block_length, steps, temperature, threshold, factor, cache)
    window = _Window(model, prompt_BP, gen_length, attention_mask_BP, cfg_scale, cache)
    prompt_length, passes = prompt_BP.shape[1], 0
    blocks = range(prompt_length, prompt_length + gen_length, block_length)
    for number, start in enumerate(blocks):
        end = min(start + block_length, window.length)
        budget = steps // len(blocks) + (number < steps % len(blocks))
        for turn in range(budget):
            masked_BS = window.masked(start, end)
            if not masked_BS.any():
                break
            logits_BSV = window.logits(start, end, first=turn == 0)
            passes += 1
            logits_BSV = _penalise(logits_BSV, window, repetition_penalty)
            token_BS, confidence_BS = _propose(
                logits_BSV, window.mask_id, temperature, remasking, generator
            )
            commit_BS = _choose(
                confidence_BS.masked_fill(~masked_BS, -torch.inf), budget - turn, threshold, factor
            )
            window.commit(start, end, token_BS, commit_BS & masked_BS)
            window.end_rows(prompt_length, stop_tokens)
            yield Generation(window.tokens_BL.clone(), passes)


class _Window:
    """The tokens being denoised, what may be attended to, and the cached keys and values."""

    def __init__(self, model, prompt_BP, gen_length, attention_mask_BP, cfg_scale, cache) -> None:
        self.model, self.cfg_scale, self.caching = model, cfg_scale, cache
        self.mask_id = model.config.mask_token_id
        batch, prompt_length = prompt_BP.shape
        self.length = prompt_length + gen_length
        canvas = prompt_BP.new_full((batch, gen_length), self.mask_id)
        self.tokens_BL = torch.cat((prompt_BP, canvas), dim=1)
        self.prompt_length = prompt_length
        self.attention_BL = None
        if attention_mask_BP is not None:
            seen = attention_mask_BP.new_ones((batch, gen_length))
            self.attention_BL = torch.cat((attention_mask_BP, seen), dim=1).bool()
            if self.attention_BL.all():
                self.attention_BL = None
        self.cache: KeyValueCache | None = None

    def masked(self, start: int, end: int) -> torch.Tensor:
        return self.tokens_BL[:, start:end] == self.mask_id

    def logits(self, start: int, end: int, *, first: bool) -> torch.Tensor:
        """Logits [B, S, V] of the block; `first` refreshes the cache by a pass over everything."""
        tokens_BL, attention_BL = self.tokens_BL, self.attention_BL
        if self.cfg_scale:
            blind_BL = tokens_BL.clone()
            blind_BL[:, : self.prompt_length] = self.mask_id
            tokens_BL = torch.cat((tokens_BL, blind_BL))
            attention_BL = None if attention_BL is None else attention_BL.repeat(2, 1)
        low, high = 0, self.length
        if self.caching != "none":
            if first:
                self._refresh(tokens_BL.shape[0])
            else:
                low, high = start, (end if self.caching == "dual" else self.length)
        hidden = self.model.hidden(
            tokens_BL[:, low:high], attention_BL, cache=self.cache, start=low
        )
        logits = self.model.head(hidden[:, start - low : end - low]).float()
        if self.cfg_scale:
            conditional, blind = logits.chunk(2)
            logits = blind + (self.cfg_scale + 1) * (conditional - blind)
        return logits

    def _refresh(self, batch: int) -> None:
        if self.cache is None:
            parameter = next(self.model.parameters())
            self.cache = KeyValueCache(
                self.model.config,
                batch,
                self.length,
                dtype=parameter.dtype,
                device=parameter.device,
            )

    def commit(self, start: int, end: int, token_BS, commit_BS) -> None:
        block = self.tokens_BL[:, start:end]
        block[commit_BS] = token_BS[commit_BS]

    def end_rows(self, prompt_length: int, stop_tokens: Sequence[int]) -> None:
        """Pads what follows a stop token once everything before it is committed."""
        if not stop_tokens:
            return
        answer_BG = self.tokens_BL[:, prompt_length:]
        stops = torch.as_tensor(stop_tokens, device=answer_BG.device)
        unknown_BG = (answer_BG == self.mask_id).cumsum(1) > 0
        stopped_BG = (torch.isin(answer_BG, stops) & ~unknown_BG).cumsum(1)
        is_after = torch.zeros_like(stopped_BG, dtype=torch.bool)
        is_after[:, 1:] = stopped_BG[:, :-1] > 0
        answer_BG[is_after] = self.model.config.pad_token_id


def _penalise(logits_BSV: torch.Tensor, window: _Window, penalty: float) -> torch.Tensor:
    """CTRL's repetition penalty (arXiv:1909.05858): a seen token always becomes less likely."""
    if penalty == 1.0:
        return logits_BSV
    seen_BV = logits_BSV.new_zeros(logits_BSV.shape[0], logits_BSV.shape[2], dtype=torch.bool)
    seen_BV.scatter_(1, window.tokens_BL, True)
    lowered = torch.where(logits_BSV > 0, logits_BSV / penalty, logits_BSV * penalty)
    return torch.where(seen_BV[:, None], lowered, logits_BSV)


def _propose(
    logits_BSV: torch.Tensor,
    mask_id: int,
    temperature: float,
    remasking: Remasking,
    generator: torch.Generator | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """A token for each position, drawn with Gumbel noise in float64, and its confidence.

    The mask is never proposed; the confidence is the softmax over the whole vocabulary.
    """
    device = logits_BSV.device
    normaliser_BS = logits_BSV.logsumexp(-1)
    logits_BSV[..., mask_id] = -torch.inf
    noisy = logits_BSV
    if temperature > 0:
        uniform = torch.rand(
            logits_BSV.shape, dtype=torch.float64, device=device, generator=generator
        )
        noisy = logits_BSV.double() - temperature * (-uniform.log()).log()
    token_BS = noisy.argmax(-1)
    if remasking == "random":
        return token_BS, torch.rand(token_BS.shape, device=device, generator=generator)
    chosen = logits_BSV.gather(-1, token_BS[..., None])[..., 0]
    return token_BS, (chosen - normaliser_BS).exp()


def _choose(
    confidence_BS: torch.Tensor, turns_left: int, threshold: float | None, factor: float | None
) -> torch.Tensor:
    """Which positions to commit in this pass; the last pass of a block commits all of them."""
    ranked, order = torch.sort(confidence_BS, dim=-1, descending=True, stable=True)
    count_B1 = ranked.isfinite().sum(-1, keepdim=True)
    rank = torch.arange(ranked.shape[-1], device=ranked.device)
    if turns_left == 1:
        take = count_B1
    elif threshold is not None:
        take = (ranked >= threshold).sum(-1, keepdim=True).clamp(min=1)
    elif factor is not None:
        fits = (rank + 2) * (1 - ranked.clamp(min=0)) < factor
        take = ((rank + 1) * fits).amax(-1, keepdim=True).clamp(min=1)
    else:
        take = -(-count_B1 // turns_left)
    commit = torch.zeros_like(confidence_BS, dtype=torch.bool)
    return commit.scatter(-1, order, (rank < take) & ranked.isfinite())


def _check(
    model, prompt_BP, gen_length, block_length, steps, temperature, threshold, factor, cache
) -> None:
    window = prompt_BP.shape[1] + gen_length
    blocks = -(-gen_length // block_length) if block_length > 0 else 0
    for name, value, good, allowed in (
        ("gen_length", gen_length, gen_length > 0, "1 or more"),
        ("block_length", block_length, block_length > 0, "1 or more"),
        ("prompt length", prompt_BP.shape[1], prompt_BP.numel() > 0, "1 or more"),
        ("steps", steps, blocks <= steps, f"at least one a block ({blocks})"),
        ("temperature", temperature, temperature >= 0, "0 or more"),
        ("threshold", threshold, threshold is None or 0 <= threshold <= 1, "0 to 1"),
        ("factor", factor, factor is None or factor > 0, "above 0"),
        ("cache", cache, cache in ("none", "prefix", "dual"), "none, prefix, dual"),
        (
            "prompt + gen_length",
            window,
            window <= model.config.max_sequence_length,
            f"at most {model.config.max_sequence_length} (the context)",
        ),
    ):
        if not good:
            raise ValueError(f"{name}={value}, allowed: {allowed}")
    if (prompt_BP == model.config.mask_token_id).any():
        raise ValueError(f"the prompt holds the mask token {model.config.mask_token_id}")
