"""The safetensors files of a model directory: where each tensor lies, and its bytes.

Reads headers, and checks them against each other and against the index. Reads rows of a tensor
without mapping the file, so that a process holds in memory only the rows it works on.
`model.checkpoint` knows which tensors a model has.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
LARGEST = 32 << 20  # bytes of a JSON file; parsed, it may take thirty times as many
LONGEST = 255  # bytes of a file's name, on every usual file system
POINTER = b"version https://git-lfs.github.com/spec/"
DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}


@dataclass(frozen=True)
class Span:
    """Where a tensor lies: bytes start..stop-1 of a file."""

    file: Path
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    stop: int

    @property
    def row_bytes(self) -> int:
        """Bytes of one row (one index of the first dimension)."""
        return (self.stop - self.start) // self.shape[0]

    def read(self, first: int, last: int) -> torch.Tensor:
        """Rows first..last-1, read into new memory."""
        buffer = bytearray((last - first) * self.row_bytes)
        with self.file.open("rb", buffering=0) as stream:
            stream.seek(self.start + first * self.row_bytes)
            view = memoryview(buffer)
            while view and (count := stream.readinto(view)):
                view = view[count:]
        if view:
            raise ValueError(f"{self.file}: it ends within a tensor")
        return torch.frombuffer(buffer, dtype=self.dtype).reshape(last - first, *self.shape[1:])


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object. Raises FileNotFoundError, or ValueError naming the file and what is wrong."""
    if not file.exists():
        raise FileNotFoundError(f"{file}: no such file")
    refuse_no_file(file)
    refuse_pointer(file)
    if (size := file.stat().st_size) > LARGEST:
        raise ValueError(f"{file}: {size} bytes, allowed: up to {LARGEST}")
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # among them numbers of too many digits
        raise ValueError(f"{file}: not JSON: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{file}: holds a {type(values).__name__}, allowed: a JSON object")
    return values


def refuse_no_file(file: Path) -> None:
    """Raises ValueError for a folder, for links in a loop, and for what might be read for ever."""
    if not file.is_file():
        raise ValueError(f"{file}: allowed: a file; a folder, pipe, device or loop is there")


def refuse_pointer(file: Path) -> None:
    """Raises ValueError for an empty file, or a Git LFS pointer in place of the file itself."""
    with file.open("rb") as stream:
        first = stream.read(len(POINTER))
    if not first:
        raise ValueError(f"{file}: is empty; copy or download it again")
    if first == POINTER:
        raise ValueError(
            f"{file}: is a Git LFS pointer and not the file itself; run `git lfs pull` where it "
            "comes from, or name the Hub repository"
        )


def weight_files(path: Path) -> list[Path]:
    """The safetensors files of a model directory, in the order of the index.

    Raises FileNotFoundError naming the file that is missing.
    """
    if not (path / INDEX).exists():
        if not (path / SINGLE).exists():
            raise FileNotFoundError(f"{path}: neither {SINGLE} nor {INDEX} is there")
        return [path / SINGLE]
    files = [path / name for name in dict.fromkeys(index(path).values())]
    for file in files:
        if not file.exists():
            raise FileNotFoundError(f"{path / INDEX}: names {file.name}, which is not there")
    return files


def find(path: Path) -> dict[str, Span]:
    """Every tensor of a model directory by name, without reading its data.

    Raises ValueError naming the file that is truncated or not a safetensors file, the tensor that
    occurs twice or has an unsupported dtype, or the tensor on which index and files disagree.
    """
    spans: dict[str, Span] = {}
    for file in weight_files(path):
        for name, span in header(file):
            if name in spans:
                raise ValueError(f"{file}: tensor {name} is in {spans[name].file.name} too")
            spans[name] = span
    if (path / INDEX).exists():
        _compare(path / INDEX, index(path), spans)
    return spans


def header(file: Path) -> Iterator[tuple[str, Span]]:
    """Names and places of a file's tensors, in the order of the file.

    The library checks the header (sizes, offsets) but does not tell offsets, so it is parsed again.
    """
    refuse_no_file(file)
    refuse_pointer(file)
    try:
        with safe_open(file, framework="pt"):  # checks sizes and offsets
            pass
    except SafetensorError as error:
        raise ValueError(f"{file}: truncated, or not a safetensors file: {error}") from None
    with file.open("rb") as stream:
        size = int.from_bytes(stream.read(8), "little")
        entries = json.loads(stream.read(size))
    entries.pop("__metadata__", None)
    for name, entry in sorted(entries.items(), key=lambda item: item[1]["data_offsets"]):
        if entry["dtype"] not in DTYPES:
            raise ValueError(
                f"{file}: tensor {name} is {entry['dtype']}, allowed: {', '.join(DTYPES)}"
            )
        start, stop = (8 + size + offset for offset in entry["data_offsets"])
        yield name, Span(file, DTYPES[entry["dtype"]], tuple(entry["shape"]), start, stop)


def copy(source: int, target: int, start: int, stop: int) -> Iterator[int]:
    """Appends bytes start..stop-1 of an open file to another within the kernel.

    `source` and `target` are file descriptors. Yields the bytes copied by each call.
    """
    while start < stop:
        count = os.sendfile(target, source, start, min(stop - start, 1 << 26))
        if not count:
            raise ValueError("the file that is copied ended early")
        start += count
        yield count


def append(target: int, tensor: torch.Tensor) -> int:
    """Appends a tensor's bytes to an open file descriptor; returns how many."""
    view = tensor.contiguous().flatten().view(torch.uint8).numpy().data
    total = len(view)
    while view:
        view = view[os.write(target, view) :]
    return total


def index(path: Path) -> dict[str, str]:
    """The file of each tensor by the index at `path`. Raises ValueError for an index of no use."""
    places = read_json(path / INDEX).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise ValueError(f"{path / INDEX}: no weight_map of tensor names to files")
    for name, file in places.items():
        if not _is_name(file):
            raise ValueError(f"{path / INDEX}: {name} is in {file!r}, allowed: a file beside it")
    return places


def _is_name(file: object) -> bool:
    """Whether a file in the same directory can have this name."""
    if not isinstance(file, str) or not file.isprintable() or Path(file).name != file:
        return False
    return file not in ("", "..") and len(os.fsencode(file)) <= LONGEST


def _compare(index: Path, places: dict[str, str], spans: dict[str, Span]) -> None:
    for name, file in places.items():
        if name not in spans or spans[name].file.name != file:
            raise ValueError(f"{index}: puts {name} in {file}, which does not hold it")
    if extra := sorted(spans.keys() - places.keys()):
        raise ValueError(f"{index}: does not list {extra[0]}, which {spans[extra[0]].file} holds")
