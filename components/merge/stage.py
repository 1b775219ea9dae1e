"""Writes a full model from a base and the adapters trained on it, one weight file after another.

Each updated weight is W + (alpha / r) B A, added in fp32 and rounded once (`model.merging`). Only
the weight that is being updated is in memory; all other bytes are copied within the kernel. A
model whose every weight was trained is copied as it is.
"""

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from components import adapted, artifact, references
from components.artifact import Input, Inputs, Output
from components.merge.config import MergeConfig
from model import checkpoint, lora, merging, safetensors_files
from model.safetensors_files import Span


def run(
    config: MergeConfig,
    *,
    base: Input,
    adapters: Inputs = (),
    trained: Input,
    model: Output,
    metrics: Output,
) -> None:
    """Merges `trained`, a LoRA adapter or a fully trained model, into a copy of `base`.

    `adapters` are those of `base` on which `trained` was trained, in their order.
    """
    if lora.is_adapter(trained):
        chain = (*adapters, trained)
        adapted.check(base, chain)
        with references.opened(base) as folder:
            updated = merge(folder, chain, model)
        tokenizer = adapted.tokenizer_directory(base, chain)
    else:
        with references.opened(trained) as folder:
            updated, tokenizer = _copy(folder, model), trained
    _check(model)
    for file in tokenizer.iterdir():
        if file.name.startswith(("tokenizer", "special_tokens", "chat_template", "added_tokens")):
            shutil.copyfile(file, model / file.name)
    (metrics / artifact.METRICS).write_text(f'{{"updated_tensors": {updated}}}\n')
    artifact.record(
        {"model": model, "metrics": metrics},
        stage="merge",
        config=config,
        inputs={"base": base, **adapted.named(adapters), "trained": trained},
        summary={"updated_tensors": updated},
    )


def merge(base: Path, adapters: Sequence[Path], model: Path) -> int:
    """Copies the base's files with the updated weights; returns the number of these.

    The adapters are merged in their order.
    """
    settings, spans = checkpoint.inspect(base)
    # A tied head is the embedding. Some files store it twice: both copies are updated alike.
    head = spans.pop(checkpoint.HEAD, None) if settings.weight_tying else None
    updates = [merging.Adapter(adapter) for adapter in adapters]
    for update in updates:
        update.check(spans)
    names = set().union(*(update.names for update in updates))
    changes = [Change(span, name, span) for name, span in spans.items() if name in names]
    if head is not None and checkpoint.EMBEDDING in names:
        changes.append(Change(head, checkpoint.EMBEDDING, spans[checkpoint.EMBEDDING]))
    files = safetensors_files.weight_files(base)
    with _bar(files) as bar:
        for file in files:
            here = [change for change in changes if change.place.file == file]
            for count in _rewrite(file, model / file.name, here, updates):
                bar.update(count)
    # The configuration comes last; training with an adapter may have extended the context.
    config = adapted.config_directory(base, adapters) / checkpoint.CONFIG
    for file in (base / safetensors_files.INDEX, config):
        if file.exists():
            shutil.copyfile(file, model / file.name)
    return len(names)


class Change(NamedTuple):
    """The place of an updated weight in the file, its name, and its place in the base."""

    place: Span
    name: str
    weight: Span


def _rewrite(
    source: Path, target: Path, changes: list[Change], updates: Sequence[merging.Adapter]
) -> Iterator[int]:
    """Writes `target` from front to back, the source's bytes with the updated weights.

    Yields the number of bytes of each write. Header, order and offsets stay the source's.
    """
    done = 0
    with source.open("rb") as old, target.open("wb", buffering=0) as new:
        for place, name, weight in sorted(changes, key=lambda change: change.place.start):
            yield from safetensors_files.copy(old.fileno(), new.fileno(), done, place.start)
            for block in merging.merge(name, weight, updates):
                yield safetensors_files.append(new.fileno(), block.to(place.dtype))
            done = place.stop
        yield from safetensors_files.copy(old.fileno(), new.fileno(), done, source.stat().st_size)


def _copy(trained: Path, model: Path) -> int:
    """Copies a model whose every weight was trained; returns the number of weights."""
    _, spans = checkpoint.inspect(trained)
    files = safetensors_files.weight_files(trained)
    with _bar(files) as bar:
        for file in files:
            with file.open("rb") as old, (model / file.name).open("wb", buffering=0) as new:
                for count in safetensors_files.copy(
                    old.fileno(), new.fileno(), 0, file.stat().st_size
                ):
                    bar.update(count)
    for file in (trained / safetensors_files.INDEX, trained / checkpoint.CONFIG):
        if file.exists():
            shutil.copyfile(file, model / file.name)
    return len(spans)


def _check(model: Path) -> None:
    """Raises ValueError unless the new model loads: by names, shapes and, if tied, its head.

    A model that fails loses its configuration, so that nothing loads it by mistake.
    """
    try:
        checkpoint.inspect(model)
        checkpoint.check_tied_head(model)
    except ValueError as error:
        (model / checkpoint.CONFIG).unlink()
        raise ValueError(f"what was merged is no model: {error}") from None


def _bar(files: list[Path]) -> tqdm:
    total = sum(file.stat().st_size for file in files)
    return tqdm(total=total, desc="merge", unit="B", unit_scale=True, disable=None)
