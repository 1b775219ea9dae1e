"""Files to object storage and back, beside `aws s3 cp`, on the S3 servers that the tests use.

Both are whole processes, each with its start. The CLI is installed into an environment of its own;
it verifies no content. Ours computes a sha256 of each file before it is sent and verifies it after
it came. The listing, the manifest and its check are part of ours.
"""

import functools
import itertools
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.measure import Row, seconds
from tests.components.conftest import ACCESS, SECRET, running

SERVERS = ("nanio", "juicefs")  # which come from the package index
LARGE, SMALL, FILES = 1 << 30, 1 << 10, 1000
BAR = 1.11  # 0.9 of the time
MEMORY = 300.0  # MB
ROUNDS = 3
OURS = """
import sys
from pathlib import Path
from components import storage
from components.storage import directories
if sys.argv[1] == "put file":
    storage.put_file(Path(sys.argv[2]), sys.argv[3])
if sys.argv[1] == "get file":
    storage.get_file(sys.argv[2], Path(sys.argv[3]))
if sys.argv[1] == "put":
    directories.put_directory(Path(sys.argv[2]), sys.argv[3])
if sys.argv[1] == "get":
    directories.get_directory(sys.argv[2], Path(sys.argv[3]))
lines = Path("/proc/self/status").read_text().splitlines()
print(next(line.split()[1] for line in lines if line.startswith("VmHWM")))
"""


Command = Callable[[], tuple[str, ...]]


def rows(device: str) -> list[Row]:
    """1 GiB each way and 1,000 files of 1 KB, on each server."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        aws = _aws(root / "aws")
        _write(root)
        return [row for name in SERVERS for row in _rows(name, root, aws)]


def _rows(name: str, root: Path, aws: str) -> Iterator[Row]:
    (root / name).mkdir()
    for server in running(name, root / name):
        os.environ |= {
            "AWS_ENDPOINT_URL": server.endpoint,
            "AWS_ACCESS_KEY_ID": ACCESS,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        for title, theirs, ours in _work(root, root / f"back-{name}", aws):
            peaks: list[float] = []
            ways = functools.partial(_theirs, theirs), functools.partial(_ours, ours, peaks)
            baseline, own = seconds(*ways, warm_up=_nothing, repeats=ROUNDS)
            yield Row(
                work=f"{title} {name}",
                against="aws s3 cp",
                unit="s",
                baseline=baseline,
                ours=own,
                bar=BAR,
            )
            yield Row(
                work=f"{title} {name}, peak memory",
                against="the bound",
                unit="MB",
                baseline=MEMORY,
                ours=max(peaks),
                bar=1.0,
            )
    shutil.rmtree(root / name)


def _work(root: Path, back: Path, aws: str) -> Iterator[tuple[str, Command, Command]]:
    """What is measured: a title and both commands, each of them to a new place."""
    large, many = str(root / "large"), str(root / "many")
    copy, new = (aws, "s3", "cp", "--quiet"), itertools.count()
    ours = (sys.executable, "-c", OURS)
    yield (
        "1 GiB to",
        lambda: (*copy, large, f"s3://bucket/large/{next(new)}"),
        lambda: (*ours, "put file", large, f"s3://bucket/large/{next(new)}"),
    )
    yield (
        "1 GiB from",
        lambda: (*copy, "s3://bucket/large/0", str(back)),
        lambda: (*ours, "get file", "s3://bucket/large/1", str(back)),
    )
    yield (
        "1,000 files of 1 KB to",
        lambda: (*copy, "--recursive", many, f"s3://bucket/aws/{next(new)}"),
        lambda: (*ours, "put", many, f"s3://bucket/ours/{next(new)}"),
    )
    _run(*copy, "--recursive", many, "s3://bucket/aws/all")
    _run(*ours, "put", many, "s3://bucket/ours/all")
    yield (
        "1,000 files of 1 KB from",
        lambda: (*copy, "--recursive", "s3://bucket/aws/all", f"{back}-{next(new)}"),
        lambda: (*ours, "get", "s3://bucket/ours/all", f"{back}-{next(new)}"),
    )


def _theirs(command: Command) -> None:
    _run(*command())


def _ours(command: Command, peaks: list[float]) -> None:
    """Adds the megabytes of the process's peak memory, by its last line in KiB."""
    peaks.append(int(_run(*command()).split()[-1]) * 1024 / 1e6)


def _run(*command: str) -> str:
    """Runs a command to its end; returns what it printed."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{command}: exit code {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def _nothing() -> None:
    """No warm-up: each command is a process of its own."""


def _aws(folder: Path) -> str:
    """The command of the AWS CLI: AWS_CLI names it, else it is installed."""
    if "AWS_CLI" in os.environ:
        return os.environ["AWS_CLI"]
    _run(sys.executable, "-m", "venv", str(folder))
    _run(str(folder / "bin/python"), "-m", "pip", "install", "--quiet", "awscli")
    return str(folder / "bin/aws")


def _write(root: Path) -> None:
    rng = random.Random(0)
    with (root / "large").open("wb") as stream:
        for _ in range(LARGE >> 20):
            stream.write(rng.randbytes(1 << 20))
    (root / "many").mkdir()
    for number in range(FILES):
        (root / "many" / f"{number}").write_bytes(rng.randbytes(SMALL))
