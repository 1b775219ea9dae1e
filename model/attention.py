"""Attention over all positions, and attention within each of several documents packed in a row.

The format of packed rows: `documents_BL` is an int tensor [B, L]. 0 is padding; the documents of a
row are numbered 1, 2, 3, ... from the left, each an unbroken run of its number. Padding may stand
anywhere between them.

The cost is the sum of the squared document lengths, not L squared. Positions continue through the
row and do not restart at a document: RoPE depends on relative positions, so a document gets the
same logits as it would alone, and the tables need no gather per row.
`components/pretrain/packing.py` packs the rows.
Shapes: B batch, L length, T real tokens of the batch, H heads, K head size.
"""

from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from itertools import groupby

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.varlen import varlen_attn
from torch.nn.utils.rnn import pad_sequence

# Documents are computed in groups, padded to the longest of the group. The padding may make
# attention cost this many times what the documents alone would.
WASTE = 1.25


def attention(
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    mask: "torch.Tensor | Packing | None",
    *,
    grouped: bool,
) -> torch.Tensor:
    """Softmax attention [B, H, L, K] over all positions, without a causal mask.

    `grouped`: keys and values have fewer heads than the queries, and several heads share one.
    `mask` is boolean, True where a query sees a key, and broadcasts to [B, H, L, L]; a `Packing`
    restricts attention to documents.
    """
    if isinstance(mask, Packing):
        return mask.attend(queries, keys, values)
    with training_kernels(queries.device) if torch.is_grad_enabled() else nullcontext():
        return F.scaled_dot_product_attention(
            queries, keys, values, attn_mask=mask, enable_gqa=grouped
        )


def training_kernels(device: torch.device) -> AbstractContextManager[None]:
    """Selects the training kernels in a no-grad pass whose result must match a training pass
    exactly.

    On a CPU training uses the math kernel: with the flash kernel, whose backward pass took 46% of a
    step, a small model trained at 19,000 tokens/s in place of 28,000 (d 128, 4 layers, bf16).
    """
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext()


class Packing:
    """Where the documents of a batch lie. Built once per forward pass and shared by all layers."""

    def __init__(self, documents_BL: torch.Tensor) -> None:
        """Raises ValueError when `documents_BL` is not in the format at the head of this file."""
        self.runs: list[tuple[int, bool]] = []
        """Runs of equal numbers in the flattened batch: length, and whether it is a document."""
        for row in documents_BL.tolist():
            self._add(row)
        self.lengths = [length for length, real in self.runs if real]
        self.is_full = all(real for _, real in self.runs)
        self.is_plain = self.is_full and len(self.runs) == len(documents_BL)
        self.documents_BL = documents_BL

    @cached_property
    def groups(self) -> list[list[int]]:
        """Which documents are computed together where no kernel takes sequences of any length."""
        return _groups(self.lengths)

    @cached_property
    def places_T(self) -> torch.Tensor:
        """The places of the documents' tokens in the flattened batch, int64."""
        return self.documents_BL.flatten().nonzero()[:, 0]

    @cached_property
    def ends(self) -> torch.Tensor:
        """Cumulative document lengths from 0, int32, as the variable-length kernel takes them."""
        return torch.tensor([0, *self.lengths], device=self.documents_BL.device).cumsum(0).int()

    def _add(self, row: list[int]) -> None:
        last = 0
        for number, run in groupby(row):
            if number not in (0, last + 1):
                raise ValueError(
                    f"documents_BL: {number} after document {last} of its row, "
                    f"allowed: 0 (padding) or {last + 1}"
                )
            last = max(last, number)
            self.runs.append((sum(1 for _ in run), number > 0))

    def attend(self, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor):
        """Softmax attention [B, H, L, K] within each document; zero at padding.

        Keys and values may have fewer heads. A batch with one unpadded document in each row uses
        plain attention: on a GPU cuDNN's kernel is faster there than the variable-length one, which
        took 129 ms of a LoRA step of 4096 tokens. Any other batch uses FlashAttention's
        variable-length kernel on a GPU in half precision, and elsewhere one dense attention per
        group of documents of similar length.
        """
        if self.is_plain:
            grouped = queries.shape[1] != keys.shape[1]
            return attention(queries, keys, values, None, grouped=grouped)
        flat = [states.transpose(1, 2).flatten(0, 1) for states in (queries, keys, values)]
        flash = queries.is_cuda and queries.dtype in (torch.float16, torch.bfloat16)
        out = self._flash(*flat) if flash else self._dense(*flat)
        return out.unflatten(0, self.documents_BL.shape).transpose(1, 2)

    def _flash(self, queries, keys, values) -> torch.Tensor:
        shape, longest = queries.shape, max(self.lengths, default=0)
        if not self.lengths:
            return torch.zeros_like(queries)
        if not self.is_full:  # the kernel takes no padding
            queries, keys, values = (s[self.places_T] for s in (queries, keys, values))
        out = varlen_attn(
            queries.contiguous(),
            keys.contiguous(),
            values.contiguous(),
            self.ends,
            self.ends,
            longest,
            longest,
            enable_gqa=queries.shape[1] != keys.shape[1],
        )
        assert isinstance(out, torch.Tensor)
        if self.is_full:
            return out
        return out.new_zeros(shape).index_copy(0, self.places_T, out)

    def _dense(self, *flat: torch.Tensor) -> torch.Tensor:
        # `split` and `cat`, not slices: the backward pass of a slice fills a whole row with zeros.
        runs = [states.split([length for length, _ in self.runs]) for states in flat]
        pieces = [
            [run for run, (_, real) in zip(runs_, self.runs, strict=True) if real] for runs_ in runs
        ]
        outputs: list[torch.Tensor] = [flat[0]] * len(self.lengths)
        for group in self.groups:
            members = [[piece[index] for index in group] for piece in pieces]
            attended = _attend_group(members, [self.lengths[index] for index in group])
            for index, document in zip(group, attended, strict=True):
                outputs[index] = document
        documents = iter(outputs)
        width = flat[0].shape[1:]
        return torch.cat(
            [
                next(documents) if real else flat[0].new_zeros(length, *width)
                for length, real in self.runs
            ]
        )


def _groups(lengths: list[int]) -> list[list[int]]:
    """Groups of document indices, longest first, of which padding costs at most WASTE."""
    groups: list[list[int]] = []
    used = 0
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        square = lengths[index] ** 2
        if groups:
            padded = (len(groups[-1]) + 1) * lengths[groups[-1][0]] ** 2
            if padded <= WASTE * (used + square):
                groups[-1].append(index)
                used += square
                continue
        groups.append([index])
        used = square
    return groups


def _attend_group(pieces: list[list[torch.Tensor]], lengths: list[int]) -> list[torch.Tensor]:
    """Attention within documents [l, H, K] of `lengths` l, in one batch padded to the longest.

    `pieces` are the queries, the keys and the values of all documents.
    """
    queries, keys, values = (_batch(documents).transpose(1, 2) for documents in pieces)
    mask = None
    if min(lengths) != max(lengths):
        places_L = torch.arange(max(lengths), device=queries.device)
        lengths_B = torch.tensor(lengths, device=queries.device)
        mask = (places_L < lengths_B[:, None])[:, None, None]
    out = attention(queries, keys, values, mask, grouped=queries.shape[1] != keys.shape[1])
    rows = out.transpose(1, 2).unbind()
    return [row[:length] for row, length in zip(rows, lengths, strict=True)]


def _batch(pieces: list[torch.Tensor]) -> torch.Tensor:
    if len(pieces) == 1:
        return pieces[0][None]
    return pad_sequence(pieces, batch_first=True)
