"""Documents packed into windows: few cuts, little padding, and each document sees itself alone.

Documents longer than the window are cut into windows; their ends and all shorter documents are
packed by best fit (arXiv:2404.10830). The training loop asks for windows by their numbers.
Shapes: B batch, L length.
"""

import bisect
from collections.abc import Iterator

import numpy as np
import torch

from components.data.token_shards import Shards
from model.training.draws import Draw
from model.training.protocols import Batch

BLOCK = 1 << 16  # pieces that are packed together, drawn at random from the whole corpus


class Windows:
    """All documents of the shards as windows of up to `window` tokens."""

    def __init__(
        self, shards: Shards, window: int, *, pad: int, seed: int, random_length: float = 0.01
    ) -> None:
        """`random_length` is the share of rows that are cut to a length from 1 to their own."""
        self.shards, self.window, self.pad, self.seed = shards, window, pad, seed
        self.random_length = random_length
        counts = -(-shards.lengths // window)
        self.documents = np.repeat(np.arange(len(shards)), counts)
        place = np.arange(len(self.documents)) - np.repeat(np.cumsum(counts) - counts, counts)
        self.starts = place * window
        lengths = np.minimum(shards.lengths[self.documents] - self.starts, window)
        order = np.random.default_rng(seed).permutation(len(lengths))
        packed = [
            pieces
            for start in range(0, len(order), BLOCK)
            for pieces in _pack(order[start : start + BLOCK], lengths, window)
        ]
        self.ends = np.cumsum([len(pieces) for pieces in packed])
        self.pieces = np.concatenate(packed)
        self.lengths = np.add.reduceat(lengths[self.pieces], self.ends - [len(p) for p in packed])
        self.useful = float(lengths.sum()) / (len(packed) * window)

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, number: int) -> list[np.ndarray]:
        """The token ids of each document, or part of one, in a window."""
        first = self.ends[number - 1] if number else 0
        return [
            self.shards.tokens(document, start, start + self.window)
            for document, start in zip(
                self.documents[self.pieces[first : self.ends[number]]],
                self.starts[self.pieces[first : self.ends[number]]],
                strict=True,
            )
        ]

    def collate(self, draw: Draw) -> Batch:
        """tokens, documents, real [B, L] of some places; their share is that of real tokens.

        `documents` numbers the documents of a row from 1; 0 is padding, where `real` is False.
        """
        lengths = self._cut_lengths(draw)
        own = lengths[list(draw.places)]
        tokens = np.full((len(own), own.max()), self.pad, np.int64)
        documents = np.zeros(tokens.shape, np.int64)
        for row, (number, length) in enumerate(zip(draw.micro_batch, own.tolist(), strict=True)):
            parts = self[number]
            counts = [len(part) for part in parts]
            tokens[row, :length] = np.concatenate(parts)[:length]
            documents[row, :length] = np.repeat(np.arange(1, len(parts) + 1), counts)[:length]
        tensors = {"tokens": torch.from_numpy(tokens), "documents": torch.from_numpy(documents)}
        tensors["real"] = tensors["documents"] > 0
        return Batch(tensors, int(own.sum()), share=float(own.sum() / lengths.sum()))

    def _cut_lengths(self, draw: Draw) -> np.ndarray:
        """Tokens of each row of the whole batch.

        Some rows are cut at random, so that the model keeps seeing short sequences (LLaDA, section
        2.2).
        """
        lengths = self.lengths[list(draw.examples)]
        uniform, place = draw.batch(2, len(lengths)).numpy()
        cut = 1 + (place * lengths).astype(np.int64)
        return np.where(uniform < self.random_length, cut, lengths)


def _pack(order: np.ndarray, lengths: np.ndarray, window: int) -> Iterator[list[int]]:
    """Best fit, longest first: each piece goes where the least room is left over."""
    by_room: dict[int, list[list[int]]] = {}
    rooms: list[int] = []  # the keys of by_room, sorted
    for piece in order[np.argsort(-lengths[order], kind="stable")].tolist():
        length = int(lengths[piece])
        place = bisect.bisect_left(rooms, length)
        if place == len(rooms):
            room, pieces = window, []
        else:
            room = rooms[place]
            pieces = by_room[room].pop()
            if not by_room[room]:
                del by_room[room], rooms[place]
        pieces.append(piece)
        if room == length:
            yield pieces
            continue
        left = room - length
        if left not in by_room:
            by_room[left] = []
            bisect.insort(rooms, left)
        by_room[left].append(pieces)
    for room in rooms:
        yield from by_room[room]
