"""A file from object storage into memory, beside the fastest that the server gives at all.

Ours are parallel ranges straight into their place, with the checksum of the whole. The server's
limit is as many parallel ranges of the same size that nobody keeps or looks at. The server is an
S3 server of the tests, on the same machine, so that both share its cores.
"""

import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import save_file

from benchmarks.base_by_reference import BUCKET, SERVERS, point_at
from benchmarks.measure import Row, seconds
from components import references, storage
from components.storage.connection import client
from components.storage.downloads import PART, THREADS

SIZE = 1 << 30
ROUNDS = 3
BAR = 0.9  # of the server's own limit


def rows(device: str) -> list[Row]:
    """A safetensors file of 1 GiB, from nanio."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "weights.safetensors")
        save_file({"weight": torch.rand(SIZE // 4)}, file)
        return list(_rows("nanio", file))


def _rows(name: str, file: Path) -> Iterator[Row]:
    (file.parent / name).mkdir()
    empty = file.parent / "empty"
    empty.mkdir()
    size = file.stat().st_size
    for server in SERVERS.running(name, file.parent / name):
        point_at(server.endpoint)
        storage.put_file(file, f"{BUCKET}/{file.name}")
        ways = partial(_discarded, file.name, size), partial(_in_memory, empty, file.name)
        limit, ours = seconds(*ways, repeats=ROUNDS)
        yield Row(
            work=f"1 GiB of safetensors from {name} into memory, with its sha256",
            against=f"{THREADS} parallel ranges that are thrown away",
            unit="GB/s",
            baseline=size / limit / 1e9,
            ours=size / ours / 1e9,
            bar=BAR,
            higher_is_better=True,
        )


def _in_memory(folder: Path, name: str) -> None:
    """As a stage reads weights that its base refers to."""
    with references.measured(folder, {name: f"{BUCKET}/{name}"}):
        pass


def _discarded(name: str, size: int) -> None:
    """Reads every byte, and keeps and checks none."""

    def part(start: int) -> None:
        end = min(start + PART, size) - 1
        answer = client().get_object(Bucket="bucket", Key=name, Range=f"bytes={start}-{end}")
        buffer = bytearray(256 << 10)
        while answer["Body"].readinto(buffer):
            pass

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(part, range(0, size, PART)))
