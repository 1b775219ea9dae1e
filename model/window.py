"""The decoding window of a batch: its tokens, attention mask and cache, and which rows still run.

A row of the window is a prompt and behind it the answer, at first all masks. Prompts are
left-padded, because RoPE depends on relative positions. Columns that are padding in every row are
dropped. `model.remasking` chooses the tokens to commit.
Shapes: B rows still running, P prompt, G generated, L = P+G, S block, M masked positions of the
block (of the row that has most), D model width, V vocabulary.
"""

from collections.abc import Sequence

import torch

from model.cache import KeyValueCache
from model.cuda_graph import MOST, Recorder, can_record
from model.llada import LLaDA
from model.options import Cache
from model.projection import project, wide_logits

# Rows of the head multiplied at once on a CPU: MKL is slow at multiplying a few states by the whole
# matrix. 16 states times a head of 32768 x 512 took 21.1 ms in one call and 14.8 ms in slices; of
# the slices 512, 1024 and 4096 were up to 3% slower than 2048.
SLICE = 2048


class Window:
    """Tokens, attention and cache of the rows that still run, and the result of all rows."""

    def __init__(
        self,
        model: LLaDA,
        prompt_BP: torch.Tensor,
        gen_length: int,
        attention_mask_BP: torch.Tensor | None,
        cfg_scale: float,
        cache: Cache,
        *,
        lengths_B: torch.Tensor | None = None,
        answered_B: torch.Tensor | None = None,
    ) -> None:
        """`attention_mask_BP` is 0 at the prompts' padding, on either side; None means no padding.

        A row may have a canvas of its own length, `lengths_B`, up to `gen_length`; padding that
        nothing sees fills it up. The last `answered_B` tokens of a row's prompt are its answer so
        far. `result_BL` has the caller's prompts and the answers of all rows; `tokens_BL` is the
        window.
        """
        self.model, self.cfg_scale, self.caching = model, cfg_scale, cache
        self.mask_id = model.config.mask_token_id
        batch, self.answer_start = prompt_BP.shape
        canvas_BG = prompt_BP.new_full((batch, gen_length), self.mask_id)
        is_canvas_BG = torch.ones_like(canvas_BG).bool()
        if lengths_B is not None:
            is_canvas_BG = torch.arange(gen_length, device=lengths_B.device) < lengths_B[:, None]
            canvas_BG = canvas_BG.masked_fill(~is_canvas_BG, model.config.pad_token_id)
        self.lengths_B = is_canvas_BG.sum(1)
        self.result_BL = torch.cat((prompt_BP, canvas_BG), dim=1)
        self.rows_B = torch.arange(batch, device=prompt_BP.device)
        prompt_BP, visible_BP = _align(prompt_BP, attention_mask_BP, self.mask_id)
        self.prompt_length = prompt_BP.shape[1]
        self.tokens_BL = torch.cat((prompt_BP, canvas_BG), dim=1)
        self.attention_BL: torch.Tensor | None = None
        if not (visible_BP.all() and is_canvas_BG.all()):
            self.attention_BL = torch.cat((visible_BP, is_canvas_BG), dim=1)
        self.prompts_B = visible_BP.sum(1)
        if answered_B is None:
            answered_B = torch.zeros_like(self.prompts_B)
        self.answered_B = answered_B
        self.cache: KeyValueCache | None = None
        self.recorder: Recorder | None = None
        self.can_record = can_record(model)

    def open(self, start: int, end: int) -> None:
        """Makes answer positions start..end-1 the active block; its first pass fills the cache."""
        self.start, self.end = self.prompt_length + start, self.prompt_length + end
        self.is_stale = True
        self._locate()

    @property
    def has_masks(self) -> bool:
        """Whether any running row has a mask in the block."""
        return self.places_BM.numel() > 0

    def logits(self) -> torch.Tensor:
        """fp32 logits [B, M, V] of the block's masked positions, with classifier-free guidance.

        u + (s + 1)(c - u), c with the prompt and u with masks in its place (arXiv:2502.09992).
        """
        tokens_BL, attention_BL, places_BM = self.tokens_BL, self.attention_BL, self.places_BM
        if self.cfg_scale:
            places_L = torch.arange(tokens_BL.shape[1], device=tokens_BL.device)
            is_prompt_BL = places_L < self.prompt_length - self.answered_B[:, None]
            tokens_BL = torch.cat((tokens_BL, tokens_BL.masked_fill(is_prompt_BL, self.mask_id)))
            places_BM = places_BM.repeat(2, 1)
            attention_BL = None if attention_BL is None else attention_BL.repeat(2, 1)
        hidden_BMD = self._states(tokens_BL, attention_BL, places_BM)
        logits_BMV = _head(hidden_BMD, self.model.head_weight).float()
        if self.cfg_scale:
            conditional, blind = logits_BMV.chunk(2)
            logits_BMV = blind + (self.cfg_scale + 1) * (conditional - blind)
        return logits_BMV

    def places(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Places of the block's masked positions [B, M] in rows without padding, whose lengths are
        the second tensor [B]."""
        first_B = self.start - self.prompt_length + self.prompts_B
        return self.places_BM + first_B[:, None], self.prompts_B + self.lengths_B

    def seen(self) -> torch.Tensor:
        """The tokens that each row holds [B, V], in prompt and answer; neither mask nor padding."""
        seen_BV = self.tokens_BL.new_zeros(
            (len(self.tokens_BL), self.model.config.embedding_size), dtype=torch.bool
        )
        shown_BL = self.tokens_BL
        if self.attention_BL is not None:
            shown_BL = shown_BL.masked_fill(~self.attention_BL, self.mask_id)
        seen_BV.scatter_(1, shown_BL, True)
        seen_BV[:, self.mask_id] = False
        return seen_BV

    def commit(
        self, token_BM: torch.Tensor, commit_BM: torch.Tensor, stop_tokens: Sequence[int]
    ) -> None:
        """Writes the tokens at `commit_BM`, then drops the rows that have ended.

        A row ends at a stop token that has no mask before it; the tokens behind it become padding.
        """
        block_BS = self.tokens_BL[:, self.start : self.end]
        current_BM = block_BS.gather(1, self.places_BM)
        block_BS.scatter_(1, self.places_BM, torch.where(commit_BM, token_BM, current_BM))
        answer_BG = self.tokens_BL[:, self.prompt_length :]
        ended_B = self._end(answer_BG, stop_tokens) if stop_tokens else None
        self.result_BL[self.rows_B, self.answer_start :] = answer_BG
        if ended_B is not None and ended_B.any():
            self._select((~ended_B).nonzero()[:, 0])
        self._locate()

    def _states(self, tokens_BL, attention_BL, places_BM) -> torch.Tensor:
        """Final states [B, M, D] of the block's masked positions."""
        low, high = self._span(tokens_BL)
        pass_BL, positions_BM = tokens_BL[:, low:high], places_BM + (self.start - low)
        if self.cache is not None and low and self.can_record and pass_BL.numel() <= MOST:
            self.recorder = self.recorder or Recorder(self.model, self.cache, attention_BL)
            return self.recorder.hidden(pass_BL, low).take_along_dim(positions_BM[..., None], 1)
        return self.model.hidden(
            pass_BL, attention_BL, positions_BQ=positions_BM, cache=self.cache, start=low
        )

    def _span(self, tokens_BL: torch.Tensor) -> tuple[int, int]:
        """Start and end of the positions that this pass runs over: all where the cache is stale."""
        whole = 0, tokens_BL.shape[1]
        if self.caching == "none":
            return whole
        if self.cache is None:
            weight = self.model.head_weight
            self.cache = KeyValueCache(
                self.model.config, *tokens_BL.shape, dtype=weight.dtype, device=weight.device
            )
        if self.is_stale:
            self.is_stale = False
            return whole
        return self.start, (self.end if self.caching == "dual" else whole[1])

    def _locate(self) -> None:
        """Locates the block's masks; a row with fewer than M is filled up with other positions."""
        masked_BS = self.tokens_BL[:, self.start : self.end] == self.mask_id
        most = int(masked_BS.sum(1).max()) if len(masked_BS) else 0
        self.places_BM = masked_BS.int().argsort(dim=1, descending=True, stable=True)[:, :most]
        self.masked_BM = masked_BS.gather(1, self.places_BM)

    def _end(self, answer_BG: torch.Tensor, stop_tokens: Sequence[int]) -> torch.Tensor:
        """Pads behind each row's stop token, in place; returns which rows have ended [B]."""
        stops = torch.as_tensor(stop_tokens, device=answer_BG.device)
        unknown_BG = (answer_BG == self.mask_id).cumsum(1) > 0
        stopped_BG = (torch.isin(answer_BG, stops) & ~unknown_BG).cumsum(1) > 0
        answer_BG[:, 1:].masked_fill_(stopped_BG[:, :-1], self.model.config.pad_token_id)
        return stopped_BG[:, -1]

    def _select(self, rows_R: torch.Tensor) -> None:
        """Goes on with these rows alone."""
        batch = len(self.tokens_BL)
        self.tokens_BL, self.rows_B = self.tokens_BL[rows_R], self.rows_B[rows_R]
        self.prompts_B, self.lengths_B = self.prompts_B[rows_R], self.lengths_B[rows_R]
        self.answered_B = self.answered_B[rows_R]
        if self.attention_BL is not None:
            self.attention_BL = self.attention_BL[rows_R]
        if self.cache is not None:
            # With guidance the cache holds every row twice, the second time without its prompt.
            self.cache.select(torch.cat((rows_R, rows_R + batch)) if self.cfg_scale else rows_R)
            self.recorder = None  # a recorded pass reads the old tensors


def _align(
    prompt_BP: torch.Tensor, attention_mask_BP: torch.Tensor | None, mask_id: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Left-padded prompts with masks as padding, and where their tokens are: both [B, P']."""
    if attention_mask_BP is None:
        return prompt_BP, torch.ones_like(prompt_BP).bool()
    visible_BP = attention_mask_BP.bool()
    order_BP = visible_BP.int().argsort(dim=1, stable=True)
    visible_BP, prompt_BP = visible_BP.gather(1, order_BP), prompt_BP.gather(1, order_BP)
    first = int((~visible_BP).sum(1).min())  # the columns before it are padding in every row
    return prompt_BP.masked_fill(~visible_BP, mask_id)[:, first:], visible_BP[:, first:]


def _head(hidden_BMD: torch.Tensor, weight_VD: torch.Tensor) -> torch.Tensor:
    """Logits [B, M, V], in fp32 on a GPU.

    On a CPU the vocabulary is walked in slices: `project` returns transposed logits, and copying a
    slice into its place is cheap while the slice is in the processor's cache.
    """
    if hidden_BMD.device.type != "cpu":
        return wide_logits(hidden_BMD.flatten(0, 1), weight_VD).unflatten(0, hidden_BMD.shape[:2])
    logits_BMV = hidden_BMD.new_empty(*hidden_BMD.shape[:-1], len(weight_VD))
    for columns, rows in zip(logits_BMV.split(SLICE, -1), weight_VD.split(SLICE), strict=True):
        columns.copy_(project(hidden_BMD, rows))
    return logits_BMV
