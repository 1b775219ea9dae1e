"""The arithmetic of merging an adapter, as peft stores it, into its base.

A weight is updated by a low-rank product (LoRA, arXiv:2106.09685, with the scale of rsLoRA,
arXiv:2312.03732, or the magnitudes of DoRA, arXiv:2402.09353), has some of its rows replaced
(trained tokens), or is replaced as a whole (saved modules). Weights are merged one at a time, some
rows at a time, so that memory does not grow with the model. The merge stage writes the result to
files; `apply` puts it into a model in memory.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError, safe_open

from model import checkpoint
from model.adapter_settings import Settings
from model.checkpoint import refuse_nan
from model.llada import LLaDA
from model.lora import PREFIX, WEIGHTS
from model.safetensors_files import Span

# Most numbers of a product B A, and of the weight's rows, in memory at a time. Every weight in the
# blocks of an 8B model fits one product: splitting a product may change its rounding, and peft does
# not split. The sum with W goes number by number and may be split anywhere.
PRODUCT, ROWS = 1 << 26, 1 << 22
A, B, MAGNITUDE = ".lora_A.weight", ".lora_B.weight", ".lora_magnitude_vector"
TOKENS, WHOLE = ".token_adapter.trainable_tokens_delta", ".weight"


class Weight(Protocol):
    """A weight whose rows can be read: of a file (`Span`) or of an earlier merge (`Held`)."""

    @property
    def dtype(self) -> torch.dtype: ...

    @property
    def shape(self) -> tuple[int, ...]: ...

    def read(self, first: int, last: int) -> torch.Tensor:
        """Rows first..last-1, in memory of their own."""


@dataclass(frozen=True)
class Held:
    """A weight in memory."""

    tensor: torch.Tensor

    @property
    def dtype(self) -> torch.dtype:
        return self.tensor.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.tensor.shape)

    def read(self, first: int, last: int) -> torch.Tensor:
        return self.tensor[first:last].clone()


class Adapter:
    """An adapter directory: the weights that it updates, and their merged values.

    Raises ValueError naming the setting or tensor that is unsupported, or a tensor without its
    partner.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.settings = Settings(path)
        try:
            self._tensors = safe_open(path / WEIGHTS, framework="pt")
        except SafetensorError as error:
            raise ValueError(f"{path / WEIGHTS}: truncated or damaged: {error}") from None
        self._parts: dict[str, dict[str, str]] = {}
        for key in sorted(self._tensors.keys()):
            layer, part = self._split(key)
            self._parts.setdefault(f"{layer}.weight", {})[part] = key
        for parts in self._parts.values():
            allowed = ({A, B}, {A, B, MAGNITUDE}, {TOKENS}, {WHOLE})
            if set(parts) not in allowed:
                raise ValueError(
                    f"{path}: {', '.join(parts.values())}: allowed: a pair of lora_A and lora_B "
                    "(with its magnitudes), the rows of trained tokens, or a whole weight"
                )
        if not self._parts:
            raise ValueError(f"{path / WEIGHTS}: it holds no tensors")
        self._check_tokens()

    def _check_tokens(self) -> None:
        """Raises ValueError if the settings name rows for which the file has no weights."""
        names = [name.removesuffix(WHOLE) for name, parts in self._parts.items() if TOKENS in parts]
        for layer, rows in self.settings.tokens.items():
            if rows and not any(name.endswith(layer) for name in names):
                raise ValueError(
                    f"{self.path}: trainable_token_indices={rows!r:.200} of {layer!r}, allowed: "
                    f"rows of layers whose weights {WEIGHTS} has: {', '.join(names) or 'none'}"
                )

    @property
    def names(self) -> set[str]:
        """Names of the weights that the adapter updates."""
        return set(self._parts)

    def check(self, base: Mapping[str, Span]) -> None:
        """Raises ValueError naming the first tensor that does not fit the base's weights."""
        for name, parts in self._parts.items():
            if name not in base:
                raise ValueError(f"{self.path}: updates {name}, which the base does not have")
            expected = self._expected(name, base[name].shape)
            for part, key in parts.items():
                shape = tuple(self._tensors.get_slice(key).get_shape())
                if shape != expected[part]:
                    raise ValueError(
                        f"{self.path}: tensor {key} has shape {shape}, expected {expected[part]}"
                    )
            self._indices(name, base[name].shape[0])

    def merge(self, name: str, weight: Weight) -> Iterator[torch.Tensor]:
        """Yields the merged weight in its own dtype, as successive blocks of rows.

        LoRA: W + scale B A, product and sum in fp32, rounded once. DoRA (equation 5):
        m (W + scale B A) / |W + scale B A|, with the norm of each row. Raises ValueError if the
        result holds NaN or infinity.
        """
        parts = self._parts[name]
        if TOKENS in parts:
            blocks = self._with_tokens(name, weight)
        elif WHOLE in parts:
            whole = self._tensors.get_tensor(parts[WHOLE])
            blocks = (block for block in whole.split(_rows(weight, ROWS)))
        else:
            blocks = self._with_product(name, weight)
        for block in blocks:
            rounded = block.to(weight.dtype)
            refuse_nan(rounded, f"{self.path}: merged weight {name}")
            yield rounded

    def _with_product(self, name: str, weight: Weight) -> Iterator[torch.Tensor]:
        parts = {part: self._tensors.get_tensor(k) for part, k in self._parts[name].items()}
        low, high = parts[A].float(), parts[B].float()
        scale = self.settings.scale(name.removesuffix(".weight"), low.shape[0])
        rows = weight.shape[0]
        for top in range(0, rows, _rows(weight, PRODUCT)):
            update = (high[top : top + _rows(weight, PRODUCT)] @ low).mul_(scale)
            for at, block in zip(
                range(top, rows, _rows(weight, ROWS)),
                update.split(_rows(weight, ROWS)),
                strict=False,
            ):
                block.add_(weight.read(at, at + len(block)))
                if MAGNITUDE in parts:
                    sizes = parts[MAGNITUDE][at : at + len(block)].float()
                    block.mul_((sizes / torch.linalg.norm(block, dim=1))[:, None])
                yield block

    def _with_tokens(self, name: str, weight: Weight) -> Iterator[torch.Tensor]:
        rows = self._tensors.get_tensor(self._parts[name][TOKENS])
        places = dict(zip(self._indices(name, weight.shape[0]), range(len(rows)), strict=True))
        for top in range(0, weight.shape[0], _rows(weight, ROWS)):
            block = weight.read(top, min(top + _rows(weight, ROWS), weight.shape[0]))
            for at in range(len(block)):
                if top + at in places:
                    block[at] = rows[places[top + at]]
            yield block

    def _expected(self, name: str, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        rank = self.settings.rank(name.removesuffix(".weight"))
        count = len(self._indices(name, shape[0]))
        return {
            A: (rank, shape[-1]),
            B: (shape[0], rank),
            MAGNITUDE: (shape[0],),
            TOKENS: (count, shape[-1]),
            WHOLE: shape,
        }

    def _indices(self, name: str, rows: int) -> list[int]:
        """The rows that trained tokens replace, none for another kind of update."""
        if TOKENS not in self._parts[name]:
            return []
        return self.settings.rows(name.removesuffix(".weight"), rows)

    def _split(self, key: str) -> tuple[str, str]:
        """The layer that a tensor of the adapter belongs to, and which part of its update it is."""
        for part in (A, B, MAGNITUDE, TOKENS, WHOLE):
            layer = key.removeprefix(PREFIX).removesuffix(part)
            if key.startswith(PREFIX) and key.endswith(part) and ".lora_" not in layer:
                return layer.removesuffix(".base_layer"), part
        raise ValueError(f"{self.path}: tensor {key} is of a kind that is not merged")


def merge(name: str, weight: Weight, adapters: Sequence[Adapter]) -> Iterator[torch.Tensor]:
    """Yields a weight with the adapters that update it merged in turn, as blocks of rows.

    It is rounded to its own dtype after each, as if every merge had been written to a file.
    """
    *earlier, last = [adapter for adapter in adapters if name in adapter.names]
    for adapter in earlier:
        weight = Held(torch.cat(list(adapter.merge(name, weight))))
    yield from last.merge(name, weight)


@torch.no_grad()
def apply(model: LLaDA, base: Path, adapters: Sequence[Path]) -> None:
    """Gives `model`, loaded from `base`, the weights that merging the adapters in turn would write.

    Each updated weight is read from the base's files, is rounded to their dtype after every
    adapter as the merge stage rounds it, and only then takes the model's dtype and device: the
    logits are those of the merged model, bit for bit. The last adapter that was trained on an
    extended context brings its configuration along. Only the weight that is being updated is in
    memory twice. Raises ValueError naming the adapter and the setting or tensor that does not fit;
    all of them are checked before the first weight changes.
    """
    spans = checkpoint.inspect(base)[1]
    if model.config.weight_tying:
        spans.pop(checkpoint.HEAD, None)  # the model has no head of its own: it uses the embedding
    updates = [Adapter(path) for path in adapters]
    for adapter in updates:
        adapter.check(spans)
    for name in sorted(set().union(*(adapter.names for adapter in updates))):
        place = model.get_parameter(name)
        weight = torch.cat(list(merge(name, spans[name], updates)))
        place.data = weight.to(place.device, place.dtype)
    for path in adapters:
        if (path / checkpoint.CONFIG).exists():
            model.config = checkpoint.read_config(path)


def _rows(weight: Weight, numbers: int) -> int:
    """How many rows of a weight hold at most `numbers` numbers; at least one."""
    return max(1, numbers // math.prod(weight.shape[1:]))
