"""Documents packed into windows: few cuts, little padding, and each document sees itself alone.

Documents longer than the window are cut into windows; what is left of them and all shorter ones are
packed by best fit (arXiv:2404.10830). A window is found by its number, so the order, the place in
it and the number of processes are the training loop's. Shapes: B batch, L length.
"""

import bisect
from collections.abc import Iterator

import numpy as np
import torch

from components.shards import Shards
from model.feed import Batch

BLOCK = 1 << 16  # pieces that are packed together, at random from the whole corpus


class Windows:
    """All documents of the shards as windows of up to `window` tokens."""

    def __init__(
        self, shards: Shards, window: int, *, pad: int, seed: int, random_length: float = 0.01
    ) -> None:
        """`random_length` is the share of batches that are cut to a length drawn from 1..window."""
        self.shards, self.window, self.pad, self.seed = shards, window, pad, seed
        self.random_length = random_length
        counts = -(-shards.lengths // window)
        self.documents = np.repeat(np.arange(len(shards)), counts)
        place = np.arange(len(self.documents)) - np.repeat(np.cumsum(counts) - counts, counts)
        self.starts = place * window
        lengths = np.minimum(shards.lengths[self.documents] - self.starts, window)
        order = np.random.default_rng(seed).permutation(len(lengths))
        packed = [
            bin
            for start in range(0, len(order), BLOCK)
            for bin in _packed(order[start : start + BLOCK], lengths, window)
        ]
        self.ends = np.cumsum([len(pieces) for pieces in packed])
        self.pieces = np.concatenate(packed)
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

    def collate(self, picked: list[int]) -> Batch:
        """tokens, documents, real [B, L] of some windows: a function of their numbers alone.

        `documents` numbers the documents of a row from 1; 0 is padding, where `real` is False.
        """
        rows = [self[number] for number in picked]
        length = max(sum(map(len, row)) for row in rows)
        tokens = np.full((len(rows), length), self.pad, np.int64)
        documents = np.zeros((len(rows), length), np.int64)
        for row, parts in enumerate(rows):
            ids = np.concatenate(parts)
            tokens[row, : len(ids)] = ids
            documents[row, : len(ids)] = np.repeat(
                np.arange(1, len(parts) + 1), [len(part) for part in parts]
            )
        kept = self._length(picked, length)
        tensors = {
            "tokens": torch.from_numpy(tokens[:, :kept].copy()),
            "documents": torch.from_numpy(documents[:, :kept].copy()),
        }
        tensors["real"] = tensors["documents"] > 0
        return Batch(tensors, int(tensors["real"].sum()))

    def _length(self, picked: list[int], length: int) -> int:
        """A random length for some batches, so that short sequences stay known (LLaDA, 2.2)."""
        draw = np.random.default_rng([self.seed, *picked])
        return int(draw.integers(1, length + 1)) if draw.random() < self.random_length else length


def _packed(order: np.ndarray, lengths: np.ndarray, window: int) -> Iterator[list[int]]:
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
