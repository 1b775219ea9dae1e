"""Margins of the reference, computed once for each pair and kept in a directory.

A margin can only be used again with the same noise, so the draws of a pair come from its content.
Its key is made of all that decides it: the pair, its masks and their weights, and how the reference
computes.
Shapes: B pairs, L length.
"""

import json
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from accelerate.utils import gather_object

from components.dpo.pairs import SIDES, Pair
from model import estimators
from model.estimators import View


class ReferenceMargins:
    """An append-only store, one file a process, that later runs read."""

    def __init__(self, directory: Path, *context: object, draws: int) -> None:
        """`context` is all that decides a margin beside its pair and its `draws`: base, arithmetic.

        Raises ValueError when the directory holds a line that is not a margin. A last line without
        its end, from a process that was killed, is passed over.
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
        # A random name, because the process id in a container is always the same.
        self.file = directory / f"margins-{uuid.uuid4().hex[:8]}.jsonl"

    def margins(self, pairs: Sequence[Pair], compute: Callable[[], torch.Tensor]) -> torch.Tensor:
        """The margin of each pair [B]; `compute` returns all of them if one is not known yet.

        Of several processes all compute if one of them must: their passes wait for each other.
        """
        keys = [self._key(pair) for pair in pairs]
        if any(gather_object([any(key not in self.known for key in keys)])):
            computed = dict(zip(keys, compute().tolist(), strict=True))
            fresh = {key: margin for key, margin in computed.items() if key not in self.known}
            lines = [json.dumps({"key": key, "margin": value}) for key, value in fresh.items()]
            with self.file.open("a") as file:
                file.write("".join(f"{line}\n" for line in lines))
            self.known |= fresh
        return torch.tensor([self.known[key] for key in keys])

    def views(self, pairs: Sequence[Pair], answer_BL: torch.Tensor) -> list[View]:
        """The draws that belong to each pair, the same at every call, for a batch [2B, L]."""
        rows = [self._views(pair, side) for side in SIDES for pair in pairs]
        views = []
        for draw in range(self.draws):
            hidden_BL = torch.zeros_like(answer_BL)
            weight_B = torch.empty(len(rows), device=answer_BL.device)
            for row, row_views in enumerate(rows):
                start = int(answer_BL[row].int().argmax())
                hidden = row_views[draw].hidden_BL[0].to(answer_BL.device)
                hidden_BL[row, start : start + len(hidden)] = hidden
                weight_B[row] = row_views[draw].weight_B[0]
            views.append(View(hidden_BL, hidden_BL, weight_B))
        return views

    def _key(self, pair: Pair) -> str:
        masks = [
            (view.hidden_BL[0].nonzero()[:, 0].tolist(), view.weight_B[0].item())
            for side in SIDES
            for view in self._views(pair, side)
        ]
        return pair.key(*self.context, masks)

    def _views(self, pair: Pair, side: str) -> list[View]:
        seed = int(pair.key(side, *self.context)[:15], 16)
        everything = torch.ones(1, len(getattr(pair, side)), dtype=torch.bool)
        generator = torch.Generator().manual_seed(seed)
        return estimators.monte_carlo(everything, draws=self.draws, generator=generator)
