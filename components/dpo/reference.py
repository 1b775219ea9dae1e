"""Margins of the reference, computed once for each pair and kept in a directory.

A margin that is to be used again belongs to fixed noise, so the draws of a pair come from its
content. It is known by all that decides it: the pair, what its draws hide and weigh, and how the
reference computes. Losses and training are elsewhere. Shapes: B pairs, L length.
"""

import json
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from components.dpo.pairs import SIDES, Pair
from model import estimators
from model.estimators import View


class ReferenceMargins:
    """An append-only store, one file a process; what one run computed serves the next."""

    def __init__(self, directory: Path, *context: object, draws: int) -> None:
        """`context` is what a margin depends on beside its pair and its `draws`: base, arithmetic.

        Raises ValueError when the directory holds a line that is not a margin. What a process that
        was killed did not finish, a last line without its end, is passed over.
        """
        self.context, self.draws = context, draws
        self.known: dict[str, float] = {}
        directory.mkdir(parents=True, exist_ok=True)
        for file in sorted(directory.glob("margins-*.jsonl")):
            for number, line in enumerate(file.read_bytes().split(b"\n")[:-1], 1):
                try:
                    entry = json.loads(line)
                    self.known[entry["key"]] = float(entry["margin"])
                except (ValueError, KeyError, TypeError):
                    raise ValueError(f"{file}:{number}: not a margin; delete the file") from None
        # No process id: in a container it is always the same.
        self.file = directory / f"margins-{uuid.uuid4().hex[:8]}.jsonl"

    def margins(self, pairs: Sequence[Pair], compute: Callable[[], torch.Tensor]) -> torch.Tensor:
        """The margin of each pair [B]; `compute` gives all of them where one is not known."""
        keys = [self._key(pair) for pair in pairs]
        if not all(key in self.known for key in keys):
            found = dict(zip(keys, compute().tolist(), strict=True))
            fresh = {key: margin for key, margin in found.items() if key not in self.known}
            lines = [json.dumps({"key": key, "margin": value}) for key, value in fresh.items()]
            with self.file.open("a") as file:
                file.write("".join(f"{line}\n" for line in lines))
            self.known |= fresh
        return torch.tensor([self.known[key] for key in keys])

    def views(self, pairs: Sequence[Pair], answer_BL: torch.Tensor) -> list[View]:
        """The draws that belong to each pair, the same at every call, for a batch [2B, L]."""
        rows = [self._views(pair, side) for side in SIDES for pair in pairs]
        views = []
        for number in range(self.draws):
            hidden_BL = torch.zeros_like(answer_BL)
            weight_B = torch.empty(len(rows), device=answer_BL.device)
            for row, drawn in enumerate(rows):
                start = int(answer_BL[row].int().argmax())
                hidden = drawn[number].hidden_BL[0].to(answer_BL.device)
                hidden_BL[row, start : start + len(hidden)] = hidden
                weight_B[row] = drawn[number].weight_B[0]
            views.append(View(hidden_BL, hidden_BL, weight_B))
        return views

    def _key(self, pair: Pair) -> str:
        drawn = [
            (view.hidden_BL[0].nonzero()[:, 0].tolist(), view.weight_B[0].item())
            for side in SIDES
            for view in self._views(pair, side)
        ]
        return pair.key(*self.context, drawn)

    def _views(self, pair: Pair, side: str) -> list[View]:
        seed = int(pair.key(side, *self.context)[:15], 16)
        everything = torch.ones(1, len(getattr(pair, side)), dtype=torch.bool)
        generator = torch.Generator().manual_seed(seed)
        return estimators.monte_carlo(everything, draws=self.draws, generator=generator)
