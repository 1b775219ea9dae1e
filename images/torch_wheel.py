"""torch's build: which one pip offers, for this machine's environment and for the image.

pip takes it from where it looks on this machine, or from the index that TORCH_INDEX names. The cpu
flavour of the image refuses a CUDA build, which brings gigabytes that it has no use for; the set-up
accepts it, since a machine with a GPU needs it, and says how large it is before it is fetched.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from images.end import end
from images.pip_settings import index_of_this_machine, without_password

ROOT = Path(__file__).parents[1]
LOCK = ROOT / "requirements.lock"
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
TARGET = ["--python-version", "3.11", "--only-binary", ":all:"]  # of the image


def main() -> None:
    """The part of `make setup` that says what is about to be fetched."""
    parser = argparse.ArgumentParser(prog="python -m images.torch_wheel", description=__doc__)
    parser.add_argument("--index", help="index of torch's builds; default: where pip looks")
    index = parser.parse_args().index
    try:
        print(announcement(index), flush=True)
    except ValueError as error:
        end("setup", str(error), 2)


def announcement(index: str | None) -> str:
    """The packages that the set-up fetches: names, rough sizes, and the indexes they come from."""
    wheel = offer(index)
    usual = index_of_this_machine()
    kind, size, hint = "the CPU build", "0.2 GB", ""
    if is_cuda(wheel):
        kind, size = "a CUDA build", "3 GB with NVIDIA's libraries"
        hint = f"; without a GPU: make setup TORCH_INDEX={CPU_INDEX}"
    source = without_password(index) if index else usual
    count = len(re.findall("^[^#].*==", LOCK.read_text(), flags=re.MULTILINE)) - 1
    return (
        f"setup: fetching torch {wheel['version']}, {kind}, about {size}, from {source}{hint}\n"
        f"setup: fetching {count} other packages, about 1 GB, from {usual}"
    )


def provide(directory: Path, *, index: str | None) -> None:
    """Downloads the wheel unless it is there. Raises ValueError where pip offers no CPU build."""
    pin = requirement(LOCK.read_text())
    if list(directory.glob(f"{pin.replace('==', '-')}[+-]*.whl")):
        return
    if is_cuda(offer(index, *TARGET)):
        raise ValueError(
            f"pip offers torch's CUDA build for {pin}; give TORCH_INDEX=the index of torch's CPU "
            "builds, put the wheel into images/wheels, or set FLAVOUR=cuda"
        )
    _pip(["download", "--dest", str(directory), "--no-deps", *TARGET, *_source(index), pin])


def offer(index: str | None, *options: str) -> dict[str, Any]:
    """The metadata of the build that pip would install. Raises ValueError where it has none."""
    pin = requirement(LOCK.read_text())
    command = ["install", "--dry-run", "--ignore-installed", "--report", "-", "--no-deps"]
    with tempfile.TemporaryDirectory() as nowhere:  # older pips want a target even for a dry run
        command += [*options, *_source(index), pin, "--target", nowhere]
        return json.loads(_pip(command))["install"][0]["metadata"]


def _source(index: str | None) -> list[str]:
    return ["--index-url", index] if index else []


def requirement(lock: str) -> str:
    """The lock file's pin of torch."""
    pin = re.search(r"^torch==\S+", lock, flags=re.MULTILINE)
    assert pin, "requirements.lock pins no torch"
    return pin[0]


def is_cuda(metadata: dict[str, Any]) -> bool:
    """Whether a wheel asks for NVIDIA's packages on this machine."""
    requirements = [Requirement(text) for text in metadata.get("requires_dist", [])]
    return any(
        requirement.name.startswith(("nvidia-", "cuda-"))
        and (requirement.marker is None or requirement.marker.evaluate({"extra": ""}))
        for requirement in requirements
    )


def _pip(arguments: list[str]) -> str:
    command = [sys.executable, "-m", "pip", *arguments, "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1:] or ["no reason given"]
        raise ValueError(f"pip {arguments[0]} of torch failed: {reason[0]}")
    return done.stdout


if __name__ == "__main__":
    main()
