"""A stage's base as an artifact, by reference in a store, and by reference on a mounted volume.

Counted are the bytes that the store sends, and the seconds until a stage's first step can begin:
until a model stands whose every weight was read once. An artifact comes as KFP's launcher fetches
it, file after file on one stream to the node's disk, and is verified as every input of a stage is.
The same between two stages that train: by a merged copy of the model, which a merge stage makes and
sends, or by the first one's adapter on the base that both read. The store is an S3 server of the
tests.
"""

import importlib
import os
import shutil
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import torch

from benchmarks.measure import Row, seconds
from benchmarks.merging import write_adapter
from components import artifact, references, storage
from components.download import base_model, mirror
from components.download.config import Shape
from components.merge.config import MergeConfig
from components.merge.stage import merge
from components.storage.connection import client, forget
from model import checkpoint, merging
from model.llada import LLaDA

SHAPE = Shape(d_model=1024, n_layers=4, n_heads=8, mlp_hidden_size=4096, vocabulary=32_000)
RANK = 32  # an adapter of 6% of its matrices, as rank 128 of an 8B model
ROUNDS = 3
CHUNK = 1 << 20
# By its name: the servers of the tests are not typed as the benchmarks are.
SERVERS = importlib.import_module("tests.components.conftest")
BUCKET = "s3://bucket"


def rows(device: str) -> list[Row]:
    """Bytes and seconds of a stage that takes a model of 0.5 GB, in three modes."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "server").mkdir()
        servers = SERVERS.running("nanio", root / "server")
        return [row for server in servers for row in _rows(root, server.endpoint)]


def _rows(root: Path, endpoint: str) -> Iterator[Row]:
    point_at(endpoint)
    held = root / "held"
    base_model.make(SHAPE, 0, 1, 2, held)
    _record(held, {})
    for file in held.iterdir():
        storage.put_file(file, f"{BUCKET}/artifact/{file.name}")
    ways = {
        "as an artifact": lambda: _as_an_artifact(root / "node"),
        "by reference": lambda: _by_reference(root / "stored"),
        "on a volume": lambda: _by_reference(root / "mounted"),
    }
    for name, place in (("stored", f"{BUCKET}/mirror"), ("mounted", str(root / "volume"))):
        model = mirror.put(place, None, _weights(held, root / f"{name}-source"), 0)
        (root / name).mkdir()
        (root / name / checkpoint.CONFIG).write_bytes((held / checkpoint.CONFIG).read_bytes())
        _record(root / name, {"model": model.references(None)})
    states = [way().state_dict() for way in ways.values()]
    _assert_equal(states)
    size = sum(tensor.nbytes for tensor in states[0].values())
    del states
    bytes_sent = [_counted(endpoint, way) for way in ways.values()]
    spent = seconds(*ways.values(), repeats=ROUNDS)
    for number, name in ((1, "by reference"), (2, "on a volume")):
        work = f"a base of {size / 1e9:.1f} GB {name}"
        for title, unit, figures in (
            ("until the first step can begin", "s", spent),
            ("from the store", "GB", [max(count, 1) / 1e9 for count in bytes_sent]),
        ):
            yield Row(
                work=f"{work}, {title}",
                against="as an artifact",
                unit=unit,
                baseline=figures[0],
                ours=figures[number],
                bar=None,
            )
    write_adapter(held, root / "adapter", rank=RANK)
    between = (
        lambda: _by_a_merged_copy(root / "node", root / "adapter", root / "merged"),
        lambda: _by_reference(root / "mounted", [root / "adapter"]),
    )
    _assert_equal([way().state_dict() for way in between])
    copied, adapted = seconds(*between, repeats=ROUNDS)
    yield Row(
        work="from an adapter to the next stage's first step, the base on a volume",
        against="by a merged copy",
        unit="s",
        baseline=copied,
        ours=adapted,
        bar=4.0,
    )


def _assert_equal(states: Sequence[dict[str, torch.Tensor]]) -> None:
    assert all(torch.equal(states[0][name], other[name]) for other in states for name in other)


def _as_an_artifact(node: Path, name: str = "artifact") -> LLaDA:
    """Fetches every file on one stream, verifies the artifact and loads it."""
    _fetch(node, name)
    return _read(checkpoint.load(node, dtype=torch.float32))


def _fetch(node: Path, source: str) -> None:
    node.mkdir(exist_ok=True)
    for name in storage.list_files(f"{BUCKET}/{source}"):
        body = client().get_object(Bucket="bucket", Key=f"{source}/{name}")["Body"]
        with (node / name).open("wb") as file:
            while content := body.read(CHUNK):
                file.write(content)
    artifact.verify(node)


def _by_a_merged_copy(node: Path, adapter: Path, merged: Path) -> LLaDA:
    """A merge stage fetches the base, merges and sends the copy; the next stage fetches that."""
    _fetch(node, "artifact")
    shutil.rmtree(merged, ignore_errors=True)
    merged.mkdir()
    merge(node, [adapter], merged)
    _record(merged, {})
    for file in merged.iterdir():
        storage.put_file(file, f"{BUCKET}/merged/{file.name}")
    return _as_an_artifact(node, "merged")


def _by_reference(model: Path, adapters: Sequence[Path] = ()) -> LLaDA:
    artifact.verify(model)
    with references.opened(model) as folder:
        network = checkpoint.load(folder, dtype=torch.float32)
        merging.apply(network, folder, adapters)
    return _read(network)


def _read(model: LLaDA) -> LLaDA:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.sum()
    return model


def _weights(held: Path, target: Path) -> Path:
    """The model's own files, without the record of an artifact."""
    target.mkdir()
    for file in held.iterdir():
        if file.name != artifact.RECORD:
            (target / file.name).hardlink_to(file)
    return target


def _record(model: Path, places: dict[str, artifact.References]) -> None:
    settings = MergeConfig()
    outputs = {"model": model}
    artifact.record(
        outputs, stage="download", config=settings, inputs={}, summary={}, references=places
    )


def point_at(endpoint: str) -> None:
    """Makes this process's store the server at an address."""
    forget()
    os.environ |= {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": SERVERS.ACCESS,
        "AWS_SECRET_ACCESS_KEY": SERVERS.SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
    }


def _counted(endpoint: str, way: Callable[[], object]) -> int:
    """The bytes that the server sends while `way` runs."""
    with _counter(endpoint) as (address, count):
        point_at(address)
        way()
    point_at(endpoint)
    return sum(count)


@contextmanager
def _counter(endpoint: str) -> Iterator[tuple[str, list[int]]]:
    """A port that hands everything on to the server, and the sizes of all that came back."""
    count: list[int] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    near, _ = listener.accept()
                except OSError:
                    return
                far = socket.create_connection((urlsplit(endpoint).hostname, _port(endpoint)))
                for pair, sizes in (((near, far), []), ((far, near), count)):
                    threading.Thread(target=_pass_on, args=(*pair, sizes), daemon=True).start()

        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", count


def _port(endpoint: str) -> int:
    port = urlsplit(endpoint).port
    assert port is not None
    return port


def _pass_on(source: socket.socket, target: socket.socket, sizes: list[int]) -> None:
    try:
        while content := source.recv(CHUNK):
            sizes.append(len(content))
            target.sendall(content)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        source.close()
        target.close()
