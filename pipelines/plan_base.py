"""Sizes that are known before anything is fetched: of the base by its headers, of data by listings.

A few kilobytes of each weight file are read, by ranges where it is far away.
"""

import json
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import prod
from pathlib import Path

from components import storage
from components.data import catalogue
from components.data.config import Source
from components.download.config import DownloadConfig
from components.preflight import memory
from components.preflight.stage import PUBLISHED as CONTEXTS
from components.storage import StorageError, hub
from model.training.sizing import Shape

BYTES = {"BF16": 2, "F16": 2, "F32": 4, "F64": 8}
HEADER = 100_000_000  # bytes: safetensors allows no longer header
LISTED = 64  # files of a source whose sizes are asked for; the others count as their mean
SAMPLE = 16


@dataclass(frozen=True)
class Base:
    """A base model as its files describe it."""

    shape: Shape
    parameters: int
    size: int
    """Bytes of the weights as they are stored."""
    context: int | None
    """Longest sequence in tokens."""
    origin: str
    """Where these figures come from."""


def read(download: DownloadConfig) -> Base:
    """The base of a recipe.

    Raises ValueError where it can be read nowhere and is no published model either.
    """
    if download.model == "new":
        shape = memory.shape_of(download)
        assert shape is not None
        context = download.shape.context
        return Base(shape, shape.parameters, 4 * shape.parameters, context, "download.shape")
    try:
        return _stored(download.model, _root(download))
    except (StorageError, OSError) as error:
        if download.model not in memory.PUBLISHED:
            reason = " ".join(str(error).split())
            raise ValueError(
                f"download.model={download.model!r}, allowed: a model whose headers can be read, "
                f"or one of {', '.join(memory.PUBLISHED)}: {reason:.200}"
            ) from None
        return published(download.model)


def published(name: str) -> Base:
    """A model of `memory.PUBLISHED` as its page describes it."""
    shape = memory.PUBLISHED[name]
    count, origin = shape.parameters, "what is published, for its files are out of reach"
    return Base(shape, count, 2 * count, CONTEXTS.get(name), origin)


def data_sizes(download: DownloadConfig) -> dict[str, int | None]:
    """Bytes of each part's sources as they are stored; None where they cannot be listed."""
    return {
        part: _size(catalogue.resolve_all(part, sources, download.catalogue))
        for part in catalogue.KINDS
        if (sources := getattr(download, part))
    }


def _root(download: DownloadConfig) -> str:
    if Path(download.model).is_dir() or storage.is_remote(download.model):
        return download.model
    return f"hf://{download.model}" + (f"@{download.revision}" if download.revision else "")


def _stored(name: str, root: str) -> Base:
    """The base at a location. Raises ValueError for files that are no LLaDA's."""
    sizes = hub.sizes(root) if hub.is_on_hub(root) else storage.list_files(root)
    config = _config(f"{root}/config.json")
    try:
        shape = Shape.read(config)
    except (KeyError, TypeError) as error:
        raise ValueError(f"{root}/config.json: no LLaDA's sizes: {error}") from None
    files = sorted(file for file in sizes if file.endswith(".safetensors") and "/" not in file)
    if not files:
        raise ValueError(f"{root}: no *.safetensors there")
    with ThreadPoolExecutor(SAMPLE) as pool:
        counts = list(pool.map(_elements, (f"{root}/{file}" for file in files)))
    parameters = sum(number for number, _ in counts)
    origin = f"the headers of {len(files)} files of {name}"
    size = sum(size for _, size in counts)
    return Base(shape, parameters, size, config.get("max_sequence_length", 4096), origin)


def _config(location: str) -> dict:
    with storage.open_file(location) as stream:
        content = stream.read(HEADER)
    try:
        config = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{location}: not JSON: {error}") from None
    if not isinstance(config, dict):
        raise ValueError(f"{location}: holds a {type(config).__name__}, allowed: a JSON object")
    return config


def _elements(location: str) -> tuple[int, int]:
    """Parameters and bytes of a safetensors file, by its header."""
    with storage.open_file(location) as stream:
        length = int.from_bytes(stream.read(8), "little")
        if not 2 <= length <= HEADER:
            raise ValueError(f"{location}: not a safetensors file")
        try:
            entries = json.loads(stream.read(length))
            entries.pop("__metadata__", None)
            counts = [(prod(entry["shape"]), BYTES[entry["dtype"]]) for entry in entries.values()]
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"{location}: not a safetensors file: {error!r:.100}") from None
    return sum(number for number, _ in counts), sum(number * size for number, size in counts)


def _size(sources: Iterable[Source]) -> int | None:
    try:
        # A data set that is made by the download has no location, and no files.
        return sum(_located(source.location) for source in sources if source.location)
    except (StorageError, OSError):
        return None


def _located(location: str) -> int:
    """Bytes of the files at a location; of many files a sample is asked for."""
    files = list(storage.find(location).files.values())
    sample = files[:: max(len(files) // LISTED, 1)]
    with ThreadPoolExecutor(SAMPLE) as pool:
        sizes = list(pool.map(_length, sample))
    return sum(sizes) * len(files) // len(sample)


def _length(file: str) -> int:
    if hub.is_on_hub(file) or storage.is_remote(file):
        with storage.open_file(file) as stream:
            return stream.seek(0, os.SEEK_END)
    return os.path.getsize(file)
