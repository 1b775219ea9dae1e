"""Memory stays flat however large a corpus is: two gigabytes through the real command line."""

import json
import resource
import subprocess
import sys
import time

import pyarrow

from components.data import sources
from tests.components.corpora import prose
from tests.conftest import ROOT

BYTES = 2 << 30
MOST, PRIVATE = 500, 300  # MB resident, and of those the process's own without library pages
# Runs a command and prints the most private and the most resident memory, in KiB, that it had.
MEASURED = r"""
import re, resource, subprocess, sys, time
process, private = subprocess.Popen(sys.argv[1:]), 0
while process.poll() is None:
    status = open(f"/proc/{process.pid}/status").read()
    private = max(private, sum(map(int, re.findall(r"Rss(?:Anon|Shmem):\s+(\d+)", status))))
    time.sleep(0.02)
print(private, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(process.returncode)
"""


def line(text):
    return json.dumps({"text": text}, ensure_ascii=False).encode() + b"\n"


def blocks():
    """Some megabytes that are repeated, and a few documents beside them that are kept."""
    largest = line("\U0001f600" + "the same words " * (sources.LONGEST // 15 - 2))
    assert sources.LONGEST - 100 < len(largest) <= sources.LONGEST
    short = b"".join(line(f"number {number} is too short") for number in range(12_000))
    refused = largest + short + line("the same again\n" * 30_000) * 6
    refused += line("x" * sources.LONGEST)
    return refused, [line(prose(2000 * number, number)) for number in range(1, 9)]


def write_corpus(path):
    """Writes two gigabytes, compressed; returns how many documents are worth keeping."""
    refused, good = blocks()
    size, count = 0, 0
    with (
        pyarrow.OSFile(str(path), "wb") as file,
        pyarrow.CompressedOutputStream(file, "zstd") as out,
    ):
        while size < BYTES:
            for block in (refused, good[count % len(good)]):
                out.write(block)
                size += len(block)
            count += 1
    return count


def test_two_gigabytes(tmp_path, base):
    path = tmp_path / "corpus.jsonl.zst"
    count = write_corpus(path)
    config = {"model": str(base), "pretrain": [{"location": str(path)}]}
    command = [sys.executable, "-c", MEASURED, sys.executable, "-m", "components.download"]
    command += ["--config", json.dumps(config)]
    for name in ("model", "dataset", "metrics"):
        command += [f"--{name}", str(tmp_path / name)]
    started, used = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    private, resident = (int(number) / 1024 for number in done.stdout.split()[-2:])
    used = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - used
    took = f"{time.monotonic() - started:.0f} s, {used:.0f} s of CPU"
    print(f"{private:.0f} MB private, {resident:.0f} MB resident, {took}")
    facts = json.loads((tmp_path / "dataset" / "report.json").read_text())["pretrain"]
    assert facts["documents"] == count
    assert facts["dropped"]["too_large"] == count
    assert facts["dropped"]["too_short"] == 12_000 * count
    assert facts["dropped"]["repeated_lines"] == 6 * count
    assert facts["dropped"]["repetitive"] == count
    assert resident < MOST and private < PRIVATE
